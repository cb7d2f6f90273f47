"""``fedbank <command>``: finds the command's module by name, so that help is there at once and torch is not."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from fedbank import __version__
from fedbank.errors import FedBankError
from fedbank.foreign import printable

COMMANDS: dict[str, tuple[str, str]] = {
    "simulate": ("fedbank_simulations.cli:simulate_command", "several banks train one adapter on this machine"),
    "server": ("fedbank_server.cli:server_command", "the coordinator's side: members, campaigns, status"),
    "client": ("fedbank_client.cli:client_command", "a member bank's side: join, train, the privacy it has spent"),
    "evidence": ("fedbank.evidence.command:evidence_command", "verify or show a tamper-evident log of either side"),
    "release": ("fedbank_client.export:release_command", "export a release for other programs"),
    "evaluate": ("fedbank_client.evaluation:evaluate_command", "score a release: the base model with and without it"),
    "verify": ("fedbank.release.command:verify_command", "did the members sign this release? offline, in a moment"),
    "audit": (
        "fedbank_simulations.audit.cli:audit_command",
        "attack the privacy: does what leaves a bank keep its promise?",
    ),
    "divide": ("fedbank_simulations.divide:divide_command", "one data file as one file a bank, to try a deployment"),
    "report": ("fedbank_simulations.cli:report_command", "privacy-utility curves of finished simulations"),
}
"""Every command with where it lives (``module:function``) and what it does."""

EXIT_OK, EXIT_USER_ERROR, EXIT_AUDIT_FAILED, EXIT_INTERRUPTED, EXIT_NOBODY_READS = 0, 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: those of the process) name; returns the exit code.

    2 for an error that a person can put right (one plain message on stderr), 3 for an audit that found a promise
    broken, 130 after Ctrl-C, 141 if whoever read the output has ended (``| head``).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS
    except FedBankError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER_ERROR
    except OSError as error:
        where = f" at {printable(error.filename)}" if error.filename else ""
        resume = "; a simulation continues with fedbank simulate resume=DIR" if words[:1] == ["simulate"] else ""
        sys.stderr.write(
            f"Expected to read and write files, got: {error.strerror or error}{where}. Free space or mend the "
            f"permissions{resume}.\n"
        )
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED


def _run(words: Sequence[str]) -> int:
    """The command, with its output written here, where a reader that has ended is no error, not when Python ends."""
    try:
        if words[:1] == ["--version"]:
            sys.stdout.write(f"fedbank {__version__}\n")
            code = EXIT_OK
        else:
            code = dispatch("fedbank", COMMANDS, words)
    except SystemExit:  # of argparse, which has printed help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def dispatch(prog: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]) -> int:
    """Run the one of ``commands`` that the first of ``words`` names, with the others; the exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_usage(prog, commands))
        return EXIT_OK
    if words[0] not in commands:
        sys.stderr.write(f"Expected a command ({', '.join(commands)}), got {words[0]!r}. See {prog} --help.\n")
        return EXIT_USER_ERROR
    module, function = commands[words[0]][0].split(":")
    return int(getattr(import_module(module), function)(words[1:]))


def _usage(prog: str, commands: Mapping[str, tuple[str, str]]) -> str:
    rows = "".join(f"  {name:<10} {purpose}\n" for name, (_, purpose) in commands.items())
    return f"usage: {prog} COMMAND ...   ({prog} COMMAND --help tells more)\n\n{rows}"


if __name__ == "__main__":
    sys.exit(main())
