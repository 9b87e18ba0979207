"""The command line: `minibert COMMAND`. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 a file is missing, damaged or does not fit;
130 and 143 stopped by Ctrl-C or SIGTERM, after saving. Bad input gives one
sentence, never a traceback: an exception that has an `exit_code` is one that a user can cause.
"""

import io
import json
import os
import re
import sys

import click

from minibert.cli.bench import bench
from minibert.cli.diff import diff
from minibert.cli.distill import distill
from minibert.cli.evaluate import evaluate
from minibert.cli.exercise import exercise
from minibert.cli.explain import explain
from minibert.cli.export import export
from minibert.cli.fill_mask import fill_mask
from minibert.cli.finetune import finetune
from minibert.cli.inspect import inspect
from minibert.cli.plot import plot
from minibert.cli.predict import predict
from minibert.cli.tokenizer import tokenizer
from minibert.cli.translate import translate
from minibert.cli.verify import verify

# torch's wording, on a GPU and on a CPU; the same exceptions are also raised for other reasons.
NO_MEMORY = "out of memory|can't allocate memory|not enough memory"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try first: minibert distill   (no arguments: the demo, end to end)",
)
@click.version_option(package_name="minibert")
def cli() -> None:
    """BERT and TinyBERT from scratch: read it, check it, distil with it."""


COMMANDS = (
    distill, finetune, evaluate, predict, fill_mask, translate, explain, plot, inspect, diff,
    export, verify, exercise, tokenizer, bench,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run a command; turn what went wrong into one sentence and an exit code."""
    # Set before torch is imported: its threads poll for work 10,000 times before they sleep. With
    # fewer polls, small products wait for them to wake up; with more, when other programs want the
    # cores too, a waiting thread keeps the one it waits for from running.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what its encoding cannot say
    try:
        code = cli.main(prog_name="minibert", standalone_mode=False)
    except click.exceptions.Abort:
        code = fail("stopped", 130)
    except KeyboardInterrupt:
        code = fail("stopped", 130)
    except click.exceptions.NoArgsIsHelpError as error:  # `minibert` alone
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = fail(error.format_message(), error.exit_code)
    except SystemExit as error:  # 1 is click's, where the reader of our output has gone: no failure
        code = 0 if error.code == 1 else error.code
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        code = fail(f"{place}{error.strerror or error}", 1)
    except Exception as error:
        if hasattr(error, "exit_code"):
            code = fail(str(error), error.exit_code)
        elif isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            code = fail("the memory is full; try a smaller --batch-size or more --accumulate", 1)
        else:
            raise
    sys.exit(code)


def fail(message: str, code: int) -> int:
    """Say it on stderr, or as the one JSON document on stdout; returns the exit code."""
    if "--json" in sys.argv:
        try:
            click.echo(json.dumps({"error": message}))
            return code
        except OSError:  # the output itself is what failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    click.echo(f"minibert: {message}", err=True)
    return code
