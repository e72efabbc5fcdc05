"""turbo-fetch: image URL lists into training-ready datasets."""
