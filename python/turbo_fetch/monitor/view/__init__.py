"""`turbo-fetch view`: a web page on this machine to browse a dataset and to follow a run."""
