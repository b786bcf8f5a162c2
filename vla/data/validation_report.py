"""The page that the validate stage writes for people: what is in the dataset, what was checked, what was found."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from vla.data.checks.overall import SATURATION, has_outliers, is_constant
from vla.data.page import bars, items, page, picture, pill, section, table
from vla.data.survey import PICTURED, Quantity, Survey
from vla.terms import DatasetSchema

SHOWN_FINDINGS = 100
SHOWN_EPISODES = 100
SHOWN_INSTRUCTIONS = 50
BINS = 40
SIDES = ("train", "validation", "quarantined")
MOODS = {"passed": "good", "failed": "bad", "skipped": "idle", "error": "bad", "warning": "warn"}


def render(record: dict[str, Any], episodes: pa.Table, schema: DatasetSchema, survey: Survey) -> str:
    """The page as text; `record` is the contents of `validation.json`, `episodes` the episode table."""
    name = record["data_name"]
    formats = ", ".join(dict.fromkeys(source["format"] for source in record["sources"]))
    origin = f"{formats}, robot {schema.robot}, {schema.fps:g} steps per second, dataset digest"
    return page(
        f"Validation of {name}",
        [
            f"<h1>Validation of {escape(name)} {_status(record['status'])}</h1>",
            f'<p class="faint">{escape(origin)} <code>{record["dataset_digest"][:16]}</code></p>',
            _figures(record, episodes, schema),
            *_findings(record["findings"]),
            *_faulty(record),
            section("Not checked", items(record["not_checked"])),
            _sources(record),
            *_lengths(episodes),
            *_pictures(survey, len(record["sources"])),
            *_quantities(survey),
            _checks(record["checks"], record["findings"]),
        ],
    )


def _status(status: str) -> str:
    return pill(status, MOODS[status])


def _figures(record: dict[str, Any], episodes: pa.Table, schema: DatasetSchema) -> str:
    counts, steps = record["episodes"], record["steps"]
    left_out = sum(sum(source["left_out"].values()) for source in record["sources"])
    figures = {
        "episodes": f"{counts['total']:,}",
        **{side: f"{counts[side]:,}" for side in SIDES},
        **({"left out": f"{left_out:,}"} if left_out else {}),
        "steps": f"{steps['total']:,}",
        "recorded": _duration(steps["total"] / schema.fps) if schema.fps > 0 else "?",
        "instructions": f"{len(episodes['instruction'].unique()):,}",
        "state, action": f"{schema.state_dim} / {schema.action_dim}",
    }
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in figures.items())
    return f'<div class="figures">{cells}</div>'


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _findings(findings: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Faults of datasets, and warnings; the faulty episodes have a section of their own."""
    shown = [finding for finding in findings if finding["level"] == "warning" or finding["episode_id"] is None]
    if not shown:
        return
    shown.sort(key=lambda finding: finding["level"] != "error")
    lines = [
        [
            _status(finding["level"]),
            f"<code>{finding['check']}</code>",
            f'<span class="nowrap">{escape(finding["where"]) or "all"}</span>',
            escape(finding["message"]),
        ]
        for finding in shown[:SHOWN_FINDINGS]
    ]
    yield section("Findings", table(["", "check", "where", "what"], lines), _more(len(shown) - len(lines)))


def _faulty(record: dict[str, Any]) -> Iterator[str]:
    episodes = record["quarantined"]
    if not episodes:
        return
    lines = [
        [f'<span class="nowrap">{escape(episode["where"])}</span>', escape(episode["reason"])]
        for episode in episodes[:SHOWN_EPISODES]
    ]
    is_over = record["status"] == "passed"
    note = '<p class="faint">They are quarantined: no later stage reads them.</p>' if is_over else ""
    yield section("Faulty episodes", note, table(["episode", "reason"], lines), _more(len(episodes) - len(lines)))


def _more(rest: int) -> str:
    return f'<p class="faint">and {rest:,} more in validation.json</p>' if rest else ""


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


def _sources(record: dict[str, Any]) -> str:
    """What each dataset gives, and which of its episodes take no part."""
    lines = []
    for source in record["sources"]:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in source["left_out"].items())
        cells = [escape(source["name"]), escape(source["format"]), escape(left_out) or "none"]
        lines.append([*cells, *(f"{source['episodes'][side]:,}" for side in SIDES), f"{source['steps']['total']:,}"])
    head = ["dataset", "format", "episodes left out", *(f"#{side}" for side in SIDES), "#steps"]
    held_out = record["held_out_source"]
    note = f'<p class="faint">{escape(held_out)} is held out as a whole.</p>' if held_out else ""
    return section("Datasets", table(head, lines), note)


def _lengths(episodes: pa.Table) -> Iterator[str]:
    """Episodes by instruction, the most frequent first, with the lengths of all before them."""
    if not len(episodes):
        return
    length_E = episodes["length"].to_numpy()
    side_E = episodes["split"].to_numpy(zero_copy_only=False)
    coded = episodes["instruction"].combine_chunks().dictionary_encode()
    code_E, texts = coded.indices.to_numpy(), coded.dictionary.to_pylist()
    counts = np.bincount(code_E)
    order = sorted(range(len(texts)), key=lambda code: (-counts[code], texts[code]))
    longest = int(length_E.max())
    groups = [("<b>all</b>", np.ones(len(length_E), dtype=bool))] if len(texts) > 1 else []
    groups += [(escape(texts[code].strip()) or "<i>empty</i>", code_E == code) for code in order[:SHOWN_INSTRUCTIONS]]
    lines = []
    for text, is_member_E in groups:
        lengths, sides = length_E[is_member_E], side_E[is_member_E]
        drawn, _ = np.histogram(lengths, bins=BINS, range=(0, longest))
        numbers = [*(f"{(sides == side).sum():,}" for side in SIDES), f"{lengths.sum():,}"]
        shortest, longest_here = lengths.min(), lengths.max()
        spread = f"{shortest}" if shortest == longest_here else f"{shortest} to {longest_here}"
        lines.append([text, *numbers, spread, bars(drawn, title=f"episode lengths from 0 to {longest} steps")])
    head = ["instruction", *(f"#{side}" for side in SIDES), "#steps", "#steps per episode", f"lengths (0 to {longest})"]
    rest = len(texts) - SHOWN_INSTRUCTIONS
    more = f'<p class="faint">and {rest:,} more instructions</p>' if rest > 0 else ""
    yield section("Instructions and split", table(head, lines), more)


def _quantities(survey: Survey) -> Iterator[str]:
    if not survey.contents:
        return
    note = f"every {survey.every}th step" if survey.every > 1 else "every step"
    for title, quantity in (("State", survey.state), ("Actions", survey.actions)):
        head = ["dimension", f"distribution ({note})", "#min", "#1 %", "#99 %", "#max", "#most at one end", ""]
        legend = (
            '<p class="faint">The height of a bar grows with the square root of its count; the shade is where 98 % of '
            "the values lie. Hold the pointer over an end to see where it occurs.</p>"
        )
        yield section(title, legend, table(head, _dimensions(quantity, survey)))


def _dimensions(quantity: Quantity, survey: Survey) -> Iterator[list[str]]:
    extremes, (middle_low, middle_high) = quantity.extremes, quantity.middle
    marks = {
        "constant": is_constant(extremes),
        "outliers": has_outliers(quantity),
        "saturated": (extremes.saturation >= SATURATION) & ~extremes.is_switch & ~is_constant(extremes),
    }
    for index, name in enumerate(quantity.names):
        low, high = extremes.low[index], extremes.high[index]
        bounds = (low, high) if high > low else None
        counts, _ = np.histogram(quantity.sample_ND[:, index], bins=BINS, range=bounds)
        middle = (middle_low[index], middle_high[index])
        band = ((middle[0] - low) / (high - low), (middle[1] - low) / (high - low)) if bounds else None
        yield [
            f"<code>{escape(name)}</code>",
            bars(counts, title=f"{name} from {low:.4g} to {high:.4g}", width=240, band=band),
            _end(low, extremes.low_at[index], survey),
            *(f"{value:.4g}" for value in middle),
            _end(high, extremes.high_at[index], survey),
            f"{extremes.saturation[index]:.1%}",
            " ".join(pill(word, "warn") for word, is_marked in marks.items() if is_marked[index]),
        ]


def _end(value: float, place: Any, survey: Survey) -> str:
    """An end of a range, with the episode and step where it occurs first."""
    episode_id, step = place.tolist()
    return f'<span title="{escape(survey.place(episode_id))}, step {step}">{value:.4g}</span>'


def _pictures(survey: Survey, sources: int) -> Iterator[str]:
    if not survey.pictures:
        return
    figures = []
    for (source, instruction), views in sorted(survey.pictures.items()):
        text = f"{source}: {instruction}" if sources > 1 else instruction
        frames = "".join(
            f"<div><span>{escape(view)}, {moment}</span>{picture(pixels, label=f'{text}: {view}, {moment}')}</div>"
            for view, ends in views.items()
            for moment, pixels in zip(("first", "last"), ends, strict=True)
        )
        figures.append(f'<figure><figcaption>{escape(text)}</figcaption><div class="frames">{frames}</div></figure>')
    note = f'<p class="faint">The first sound episode of each instruction, of at most {PICTURED}.</p>'
    yield section("Views", note, f'<div class="pictures">{"".join(figures)}</div>')
