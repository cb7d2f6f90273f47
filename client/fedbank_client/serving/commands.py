"""``fedbank client serve``: the bank's service, and ``fedbank client token``: a token for a first run."""

import argparse
import sys
from collections.abc import Sequence

from fedbank.cli import EXIT_OK
from fedbank.command_line import add_folder, now, tell
from fedbank.config import config_dir, load_serve
from fedbank.errors import ConfigError, FedBankError
from fedbank.passphrases import add_passphrase, read_passphrase
from fedbank.supervision import UNSUPERVISED, end_with_parent, log_to, supervise_itself
from fedbank_client.home import find_home

PLAN, LOOPBACK = "plan", "127.0.0.1"
MAX_SUBJECT = 256
_START_AGAIN = 1
"""The exit code of something that another start may mend."""
_DRAIN_S, _GRACE_S = 20, 60
"""Seconds for answers that are being written at a stop, and for all of it, before the supervisor kills."""


def serve_command(words: Sequence[str]) -> int:
    """``fedbank client serve [plan] [--dir DIR] [NAME=VALUE ...]``"""
    if list(words[:1]) == [PLAN]:
        from fedbank_client.serving.plan_command import plan_command

        return plan_command(words[1:])
    chosen = _parser().parse_intermixed_args(list(words))
    home, config = find_home(chosen.dir), load_serve(chosen.overrides)
    home.check_here()
    if not chosen.unsupervised:
        return supervise_itself(["client", "serve", *words], tell, grace_s=_GRACE_S)
    passphrase = read_passphrase(chosen)
    end_with_parent()

    from fedbank.model.quiet import quiet_libraries
    from fedbank_client.serving.folder import ServiceFolder
    from fedbank_client.serving.running import serve  # torch, transformers and FastAPI take seconds

    folder = ServiceFolder(home)
    folder.make()
    log_to(folder.log)
    quiet_libraries()
    try:
        return EXIT_OK if serve(home, config, passphrase, tell, _DRAIN_S) else _START_AGAIN
    except FedBankError as error:
        if getattr(error, "retry_after_s", None) is None:
            raise
        tell(f"fedbank: {error}")  # a store or a Redis that is away: it may be back
        return _START_AGAIN


def token_command(words: Sequence[str]) -> int:
    """``fedbank client token --role ROLE --subject NAME``"""
    from fedbank.serving.access.development_issuer import DevelopmentIssuer
    from fedbank.serving.access.rights import Role
    from fedbank_client.serving.folder import ServiceFolder

    parser = argparse.ArgumentParser(
        prog="fedbank client token",
        description="Print a token for an hour, signed by the development issuer of a service in this folder: for curl "
        "on this machine. A service with access=provider refuses it.",
    )
    add_folder(parser)
    parser.add_argument("--role", choices=[role.value for role in Role], default=Role.CUSTOMER_CHANNEL.value)
    parser.add_argument("--subject", default="customer-1", metavar="NAME", help="who it is for (default: customer-1)")
    parser.add_argument("--audience", default="fedbank", metavar="NAME", help="access.audience of the service")
    chosen = parser.parse_args(list(words))
    if not 1 <= len(chosen.subject) <= MAX_SUBJECT or not chosen.subject.isprintable():
        raise ConfigError(
            f"Expected a name of at most {MAX_SUBJECT} printable characters after --subject, got another."
        )
    folder = ServiceFolder(find_home(chosen.dir))
    folder.make()
    issuer = DevelopmentIssuer(folder.path, LOOPBACK)
    sys.stdout.write(issuer.token(Role(chosen.role), chosen.subject, chosen.audience, now(), peer=LOOPBACK) + "\n")
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedbank client serve",
        description="Answer this bank's customers with the release that fedbank client sync adopted, until stopped "
        "(Ctrl-C or SIGTERM). Without settings: the tiny model, on this machine only, with tokens of its own. "
        "fedbank client serve plan tells what fits in a card.",
        epilog="Settings, with their defaults:\n\n" + _settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="such as model=path model.path=DIR")
    add_folder(parser)
    add_passphrase(parser)
    parser.add_argument(UNSUPERVISED, action="store_true", help="do not restart after a crash: a service manager does")
    return parser


def _settings() -> str:
    """conf/serve.yaml, and the choices of its groups."""
    names = ("serve", "engine/transformers", "engine/openai", "engine/vllm", "access/development", "access/provider")
    return "\n".join(f"--- conf/{name}.yaml\n" + (config_dir() / f"{name}.yaml").read_text("utf-8") for name in names)
