"""`python -m vla`; the installed script `vla` is the same.

DVC uses the first form: in an experiment's workspace the script would import the code of the main checkout.
"""

from vla.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
