"""`python -m paramscope`."""

from paramscope.cli import main

if __name__ == "__main__":
    main()
