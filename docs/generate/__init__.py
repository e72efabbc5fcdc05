"""Pages of the site that are made from the code and from measured results; see `__main__`."""
