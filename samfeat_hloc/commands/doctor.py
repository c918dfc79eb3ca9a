"""``samfeat doctor``."""

from __future__ import annotations

import typer

from .options import INSTALLATION


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("doctor", rich_help_panel=INSTALLATION)
    def doctor() -> None:
        """Check the installation: versions, what works together, what is wrong (exit code 1)."""
        from .. import doctor

        findings = doctor.examine()
        typer.echo(doctor.report(findings))
        if any(finding.level == "wrong" for finding in findings):
            raise typer.Exit(1)
