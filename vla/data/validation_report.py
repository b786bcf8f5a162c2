"""The page that the validate stage writes for people: what is in the dataset, what was checked, what was found."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from vla.data.checks import is_constant
from vla.data.page import bars, page, picture, pill, section, table
from vla.data.survey import Extremes, Survey

SHOWN_FINDINGS = 100
SHOWN_INSTRUCTIONS = 50
BINS = 40
MOODS = {"passed": "good", "failed": "bad", "skipped": "idle", "error": "bad", "warning": "warn"}


def render(record: dict[str, Any], episodes: pa.Table, survey: Survey) -> str:
    """The page as text; `record` is the contents of `validation.json`, `episodes` the episode table."""
    name, schema = record["data_name"], survey.schema
    origin = f"{schema.format}, robot {schema.robot}, {schema.fps:g} steps per second, dataset digest"
    rows = episodes.to_pylist()
    return page(
        f"Validation of {name}",
        [
            f"<h1>Validation of {escape(name)} {_status(record['status'])}</h1>",
            f'<p class="faint">{escape(origin)} <code>{record["dataset_digest"][:16]}</code></p>',
            _figures(record, rows, survey),
            *_findings(record["findings"]),
            _checks(record["checks"], record["findings"]),
            _instructions(rows),
            *_quantities(survey),
            *_pictures(survey),
            section("Not checked", "<ul>" + "".join(f"<li>{escape(x)}</li>" for x in record["not_checked"]) + "</ul>"),
        ],
    )


def _status(status: str) -> str:
    return pill(status, MOODS[status])


def _figures(record: dict[str, Any], rows: Sequence[dict[str, Any]], survey: Survey) -> str:
    episodes, steps = record["episodes"], record["steps"]
    figures = {
        "episodes": f"{episodes['total']:,}",
        "train": f"{episodes['train']:,}",
        "validation": f"{episodes['validation']:,}",
        "quarantined": f"{episodes['quarantined']:,}",
        "steps": f"{steps['total']:,}",
        "recorded": _duration(steps["total"] / survey.schema.fps) if survey.schema.fps > 0 else "?",
        "instructions": f"{len({row['instruction'] for row in rows}):,}",
        "state, action": f"{survey.schema.state_dim} / {survey.schema.action_dim}",
    }
    return (
        '<div class="figures">'
        + "".join(f"<div><b>{v}</b><span>{k}</span></div>" for k, v in figures.items())
        + "</div>"
    )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _findings(findings: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not findings:
        return
    ordered = sorted(findings, key=lambda finding: finding["level"] != "error")
    lines = [
        [
            _status(finding["level"]),
            f"<code>{finding['check']}</code>",
            "all" if finding["episode_id"] is None else str(finding["episode_id"]),
            escape(finding["message"]),
        ]
        for finding in ordered[:SHOWN_FINDINGS]
    ]
    rest = len(ordered) - len(lines)
    more = f'<p class="faint">and {rest:,} more in validation.json</p>' if rest else ""
    yield section("Findings", table(["", "check", "episode", "what"], lines), more)


def _checks(checks: Sequence[dict[str, str]], findings: Sequence[dict[str, Any]]) -> str:
    warned = {finding["check"] for finding in findings if finding["level"] == "warning"}
    lines = [
        [
            _status("warning" if check["status"] == "passed" and check["name"] in warned else check["status"]),
            f"<code>{check['name']}</code>",
            escape(check["detail"]),
        ]
        for check in checks
    ]
    return section("Checks", table(["", "check", "what holds when it passes"], lines))


def _instructions(rows: Sequence[dict[str, Any]]) -> str:
    by_text: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_text[row["instruction"]].append(row)
    longest = max((row["length"] for row in rows), default=1)
    lines = []
    for text, group in sorted(by_text.items())[:SHOWN_INSTRUCTIONS]:
        lengths = np.array([row["length"] for row in group])
        sides = [sum(row["split"] == side for row in group) for side in ("train", "validation", "quarantined")]
        counts, _ = np.histogram(lengths, bins=BINS, range=(0, longest))
        spread = f"{lengths.min()} to {lengths.max()}"
        cells = [
            escape(text.strip()) or "<i>empty</i>",
            *(f"{count:,}" for count in sides),
            f"{lengths.sum():,}",
            spread,
        ]
        lines.append([*cells, bars(counts, title=f"episode lengths from 0 to {longest} steps")])
    head = [
        "instruction",
        "#train",
        "#validation",
        "#quarantined",
        "#steps",
        "#steps per episode",
        f"lengths (0 to {longest})",
    ]
    rest = len(by_text) - len(lines)
    more = f'<p class="faint">and {rest:,} more instructions</p>' if rest else ""
    return section("Instructions and split", table(head, lines), more)


def _quantities(survey: Survey) -> Iterator[str]:
    if not survey.contents:
        return
    note = f"every {survey.every}th step" if survey.every > 1 else "every step"
    for title, names, extremes, plotted in (
        ("State", survey.schema.state_names, survey.state, survey.plotted_state),
        ("Actions", survey.schema.action_names, survey.actions, survey.plotted_actions),
    ):
        head = ["dimension", f"distribution ({note})", "#min", "#max", "#most at one end", ""]
        legend = '<p class="faint">The height of a bar grows with the square root of its count.</p>'
        yield section(title, legend, table(head, _dimensions(names, extremes, np.concatenate(plotted))))


def _dimensions(names: Sequence[str], extremes: Extremes, values_ND: Float32[np.ndarray, "N D"]) -> Iterator[list[str]]:
    constant = is_constant(extremes)
    for index, name in enumerate(names):
        low, high = extremes.low[index], extremes.high[index]
        counts, _ = np.histogram(values_ND[:, index], bins=BINS, range=(low, high) if high > low else None)
        yield [
            f"<code>{escape(name)}</code>",
            bars(counts, title=f"{name} from {low:.4g} to {high:.4g}", width=320),
            f"{low:.4g}",
            f"{high:.4g}",
            f"{extremes.saturation[index]:.1%}",
            pill("constant", "warn") if constant[index] else "",
        ]


def _pictures(survey: Survey) -> Iterator[str]:
    if not survey.pictures:
        return
    figures = []
    for text, views in sorted(survey.pictures.items()):
        frames = "".join(
            f"<div><span>{escape(view)}, {moment}</span>{picture(pixels, label=f'{text}: {view}, {moment}')}</div>"
            for view, ends in views.items()
            for moment, pixels in zip(("first", "last"), ends, strict=True)
        )
        figures.append(f'<figure><figcaption>{escape(text)}</figcaption><div class="frames">{frames}</div></figure>')
    yield section("Views", f'<div class="pictures">{"".join(figures)}</div>')
