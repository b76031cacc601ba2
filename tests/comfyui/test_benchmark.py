"""The benchmark of the first sample at its smallest: it runs and gives its figures."""

import json

import pytest
import torch

from benchmarks import comfyui as benchmark

pytestmark = pytest.mark.comfyui


def test_the_benchmark_gives_a_table_and_its_figures(comfyui, tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        benchmark.main(["--arch", "micro", "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "figures.json")])
    finally:
        torch.set_num_threads(threads)
    said, record = capsys.readouterr().out, json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert "88 layers, db1, p = 2592" in said.splitlines()[0]
    assert "\n|---|" in said
    assert record["benchmark"] == "comfyui"
    assert len(record["records"]) == 3 * 3 + 3 + 1
    assert all(row["seconds"] and min(row["seconds"]) > 0 for row in record["records"])
