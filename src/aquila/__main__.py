"""`python -m aquila`: the `aquila` command, for where only the interpreter is known, such as below torchrun."""

from aquila.cli.main import run

if __name__ == "__main__":
    run()
