"""Many runs: what a sweep file asks for, a search over settings, and a cluster that trains them."""
