"""``samfeat doctor``."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def doctor() -> None:
        """Tell what is installed, what works with what, and what is wrong (then exit 1)."""
        from .. import doctor

        findings = doctor.examine()
        typer.echo(doctor.report(findings))
        if any(finding.level == "wrong" for finding in findings):
            raise typer.Exit(1)
