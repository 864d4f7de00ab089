"""`python -m hero` is the command `hero`."""

from hero.cli import main

if __name__ == "__main__":
    main()
