"""From URLs to bodies: one request, what to do next, and many requests at once."""
