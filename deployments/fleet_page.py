"""`GET /fleet/ui`: the fleet as a page, for those without Grafana. It asks `GET /fleet` itself."""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import HTMLResponse

PAGE_PATH = "/fleet/ui"
# One file that loads nothing: whatever it shows, no other server hears of it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def fleet_page() -> HTMLResponse:
    """The page. It holds nothing of the fleet, so everybody may have it."""
    page = files("deployments") / "ui" / "fleet.html"
    return HTMLResponse(page.read_text(encoding="utf-8"), headers=_HEADERS)
