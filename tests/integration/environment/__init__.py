"""The environment that `make env` builds."""
