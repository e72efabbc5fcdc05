"""Where the bytes of a row come from, if not from a web server: files, object stores, data URLs, columns, archives."""
