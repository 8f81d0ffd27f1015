"""Commands on the whole: demo, doctor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from traceworld.commands.printing import emit, table


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job, end to end: video → traces → predicted traces → report."""

    input: Path | None = None
    """Your own video or RGB-D folder; none: an unseen simulated episode."""
    out: Path = Path("demo")
    instruction: str | None = None
    """What is to happen, if the input does not say."""
    model: str = "mu0-nano"
    seed: int = 7
    json: bool = False
    """Print the figures as JSON."""

    def run(self) -> int:
        from traceworld.demo import run_demo, summary_table

        result = run_demo(self.input, self.out, model=self.model, seed=self.seed, instruction=self.instruction)
        emit(result, self.json, None if self.json else summary_table(result))
        return 0


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, what does not, why, and the command that mends it."""

    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        from traceworld.doctor import as_json, examine

        findings = examine()
        rows = [
            {
                "": "✓" if f.ok else "✗",
                "what": f"{f.group}: {f.name}",
                "detail": f.detail,
                "licence": f.licence,
                "mend": f.mend,
            }
            for f in findings
        ]
        report = as_json(findings)
        emit(report, self.json, table("traceworld doctor", rows))
        return 0 if report["ok"] else 1
