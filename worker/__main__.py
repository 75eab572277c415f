"""`python -m worker` is `lowtide`, also where the command is not on the PATH."""

from worker.cli.main import main

main()
