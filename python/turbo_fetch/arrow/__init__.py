"""Arrow between the parts: schemas, types of columns, binary values."""
