"""What every verb does with its words: an option stands once, and a wrong value is told plainly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand

from fwt.fwcore.errors import ConfigError


class Command(TyperCommand):
    """A verb of `fwt`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that are left over; options are in `ctx.params`.

        Raises:
            ConfigError: an option that takes one value stands twice, or a value is of another type.
            typer.BadParameter: whatever else is wrong.
        """
        if not ctx.resilient_parsing:
            self._refuse_repeated(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            message = _wrong_value(error, ctx)
            if message is None:
                raise
            raise ConfigError(message) from error

    def _refuse_repeated(self, ctx: Any, args: list[str]) -> None:
        """Of two values one would be dropped without a word."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for param, count in Counter(order).items():
            if count > 1 and not param.multiple and param.nargs == 1:
                raise ConfigError(
                    f"{_flag(param)}: expected it once, got it {count} times; leave all but one out"
                )


def _flag(param: Any) -> str:
    """An option's first long name, an argument's own."""
    return str(next((name for name in param.opts if name.startswith("--")), param.opts[0]))


def _wrong_value(error: typer.BadParameter, ctx: Any) -> str | None:
    """The line for a value of another type, which may be a variable's; None for other faults."""
    from pydantic import ValidationError  # help must not wait for it

    from fwt.fwcore import wording

    cause, param = error.__cause__, error.param
    if not isinstance(cause, ValidationError) or param is None:
        return None
    source = ctx.get_parameter_source(param.name)
    variable = f" ({param.envvar})" if source is not None and source.name == "ENVIRONMENT" else ""
    fault = cause.errors(include_url=False)[0]
    name = _flag(param).lstrip("-")
    return f"{_flag(param)}{variable}: {wording.expected(fault)}{wording.got(name, fault)}"
