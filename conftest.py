"""What helpers of the tests assert holds below `python -O`, too: pytest rewrites it."""

from pathlib import Path

import pytest

HELPERS = [path.stem for path in Path(__file__).with_name("tests").glob("*.py")]
pytest.register_assert_rewrite(*(f"tests.{name}" for name in HELPERS if name != "conftest"))
