"""A page in the browser that shows a network step by step; imported by `fwt demo` alone."""
