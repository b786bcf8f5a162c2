"""The page that the validate stage writes for people."""

from dataclasses import replace

import numpy as np
from builders import ArrayDataset, make_episode, make_sources
from inspections import inspected

from vla.data import validation_report
from vla.data.validation_record import make_record, make_table


def test_the_report_is_one_page_without_links_and_with_escaped_texts(tmp_path):
    episodes = [make_episode(seed=seed, instruction="open <b>the</b> drawer & wait") for seed in range(4)]
    data = ArrayDataset(episodes)
    opened = make_sources(data, left_out={"not in a<b": 3})
    inspection = inspected(opened)
    table = make_table(inspection, opened, holdout=0.2)
    record = {**make_record(inspection, table, failed=False), "data_name": "a&b", "dataset_digest": "0" * 64}
    record["not_checked"].append("x < y")
    text = validation_report.render(record, table, data.schema, inspection.survey)
    assert "open &lt;b&gt;the&lt;/b&gt; drawer &amp; wait" in text
    assert "<b>the</b>" not in text
    assert "Validation of a&amp;b" in text
    assert "x &lt; y" in text
    assert "http" not in text
    # Two views of one instruction, first and last frame.
    assert text.count("data:image/png;base64,") == 4
    assert "3 not in a&lt;b" in text
    # One histogram per dimension of state and actions, and one of lengths.
    assert text.count("<svg") == 3 + 2 + 1


def test_the_report_marks_dimensions_and_says_where_their_ends_are():
    episode = make_episode(300, seed=3)
    episode.state_TS[:, 0] = 0.5
    np.clip(episode.state_TS[:, 1], -1, 1, out=episode.state_TS[:, 1])
    episode.state_TS[44, 1] = 99.0
    episode.actions_TA[:150, 0] = 9.0
    faulty = replace(make_episode(seed=1), instruction="")
    data = ArrayDataset([episode, faulty], ids=[5, 6])
    opened = make_sources(data)
    inspection = inspected(opened)
    table = make_table(inspection, opened, holdout=0.2)
    record = {**make_record(inspection, table, failed=False), "data_name": "noise", "dataset_digest": "0" * 64}
    text = validation_report.render(record, table, data.schema, inspection.survey)
    rows = {name: next(line for line in text.splitlines() if f"<code>{name}</code>" in line) for name in ("s0", "s1")}
    assert ">constant</span>" in rows["s0"]
    assert ">outliers</span>" in rows["s1"]
    assert '<span title="episode 5, step 44">99</span>' in rows["s1"]
    assert 'class="band"' in rows["s1"]
    assert text.count(">saturated</span>") == 1
    faults = text.split("<h2>Faulty episodes</h2>")[1].split("</section>")[0]
    assert "episode 6" in faults
    assert "instruction: expected an instruction, found an empty text" in faults
    # It is a fault of the episode, not listed once more among the warnings.
    assert "empty text" not in text.split("<h2>Findings</h2>")[1].split("</section>")[0]
