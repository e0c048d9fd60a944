"""Run the command line as `python -m pico_banana.convert`."""

from .cli import main

if __name__ == "__main__":
    main()
