"""Answer a browser: the page, its script and style, what has changed, and full reports.

Only this machine's own names are answered, so that a page of another site cannot read the records
by giving its own name this machine's address (DNS rebinding). Nothing can be changed from here.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wpm.live_page.reports import ReportError, ReportMaker
from wpm.live_page.watcher import Watcher

HOSTS = ("localhost", "127.0.0.1")
_STATIC = Path(__file__).parent / "static"
# The addresses of the page's own files: no other file can be asked for.
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_OWN_SITE = (None, "none", "same-origin")  # of the header Sec-Fetch-Site; older browsers send none
_NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    f"{_NOTHING_ELSE}; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'"
)
# A report is one file that holds its own script; it may reach nothing, not even this server.
_REPORT_POLICY = (
    f"{_NOTHING_ELSE}; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "sandbox allow-scripts allow-downloads"
)
_HEADERS = {
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def build_app(watcher: Watcher, reports: ReportMaker) -> Starlette:
    """Return the application, for any ASGI server."""
    routes = [Route(path, _answer_with(*file)) for path, file in _FILES.items()]

    async def send_changes(request: Request) -> Response:
        text = watcher.changes_since(request.query_params.get("since", ""))
        return Response(text, media_type="application/json")

    async def send_report(request: Request) -> Response:
        name = request.path_params.get("name")
        place = None if name is None else watcher.find_place(name)
        if name is not None and place is None:
            return PlainTextResponse(f"no study {json.dumps(name)} here", 404)
        try:
            path = await reports.make(place, watcher.version_of(name))
        except ReportError as error:
            return PlainTextResponse(f"the report could not be made:\n{error}", 500)
        headers = {"Content-Security-Policy": _REPORT_POLICY}
        return FileResponse(path, media_type="text/html", headers=headers)

    routes += [
        Route("/changes", send_changes),
        Route("/report", send_report),
        Route("/report/{name:path}", send_report),
    ]
    middleware = [
        Middleware(_SafeAnswers),
        Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        Middleware(GZipMiddleware),
    ]
    return Starlette(routes=routes, middleware=middleware)


def _answer_with(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (_STATIC / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return answer


class _SafeAnswers:
    """Adds the headers of `_HEADERS` to every answer, and refuses what other sites ask for.

    Another site's page cannot read an answer anyway. But it should not be able to start reports
    either, which take seconds of a processor. It may link to the page.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        site = Headers(scope=scope).get("sec-fetch-site")
        if scope["path"] != "/" and site not in _OWN_SITE:
            refusal = PlainTextResponse("other sites may not ask for this", 403)
            await refusal(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)
