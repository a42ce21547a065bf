"""`python -m dms_executor.cli`."""

from . import main

if __name__ == "__main__":
    main()
