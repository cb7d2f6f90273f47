"""The pages: files that lie beside this module, read once, and nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from fedbank_client.serving import problems
from fedbank_client.serving.guard import BankRoute, open_to_all
from fedbank_client.serving.problems import RefusedError

router = APIRouter(route_class=BankRoute, include_in_schema=False)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}


def _read(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Content and type by name."""
    files = sorted(path for path in folder.glob("*") if path.suffix in _TYPES)
    return {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in files}


_FILES = _read(Path(__file__).with_name("pages"))


@router.get("/")
@open_to_all
async def chat() -> Response:
    """The chat page."""
    return _file("chat.html")


@router.get("/operator")
@open_to_all
async def operator() -> Response:
    """The operator's page; what it shows, it asks for with their token."""
    return _file("operator.html")


@router.get("/pages/{name}")
@open_to_all
async def page(name: str) -> Response:
    """One of the pages' files."""
    return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise RefusedError(problems.NOT_FOUND)
    content, kind = _FILES[name]
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})
