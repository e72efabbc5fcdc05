"""`python -m turbo_fetch.score`: a process that runs the function, on a socket that it is given."""

from turbo_fetch.score.process import main

main()
