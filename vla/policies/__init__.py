"""Policies: one file each, with a class `Config`, and the functions `make_spec` and `build` (`PolicyModule`)."""
