"""The command itself: help without torch, exit codes, streams, interrupts, and nothing replaced unasked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from tests.apps.conftest import everything_in

from mosaicmem.apps.cli import recall as recall_module
from mosaicmem.apps.cli.main import COMMANDS, main


def test_help_lists_every_command_and_loads_no_torch():
    code = (
        "import sys; from mosaicmem.apps.cli.main import main; rc = main(['--help']);"
        "print(sorted({'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules)), rc)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in ran.stdout for name in COMMANDS)
    assert ran.stdout.endswith("[] 0\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_a_runnable_example(run, name):
    ran = run(name, "--help")
    assert ran.code == 0
    assert f"Example:\n  mosaicmem {name} " in ran.out
    for option in ("--config", "--set", "--seed", "--json", "--quiet", "--verbose", "--out", "--overwrite"):
        assert option in ran.out


def test_usage_errors_return_2_and_suggest(run):
    assert run().code == 2
    ran = run("recal")
    assert ran.code == 2
    assert ran.err == "error: unknown command 'recal'; did you mean recall?\n"
    ran = run("lint")
    assert ran.code == 2
    assert "SOURCE" in ran.err.upper() or "PATH" in ran.err
    ran = run("bench", "--widht", 3)
    assert ran.code == 2
    assert "--width" in ran.err
    assert "╭" not in ran.err
    assert run("recall", "x", "--trajectory", "y").code == 2, "recall needs --out"
    assert run("--version").out.startswith("mosaicmem ")


def test_python_dash_m_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "mosaicmem", "nonsense"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: unknown command")


@pytest.mark.parametrize("name", COMMANDS)
def test_t6_every_command_refuses_unknown_settings_with_a_suggestion(run, name, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[retrieval]\npol = 3\n")
    ran = run(name, "--config", file, "--set", "vidio.fps=3")
    assert ran.code == 2
    assert "unknown setting 'retrieval.pol'; did you mean retrieval.pool?" in ran.err
    assert "unknown setting 'vidio'; did you mean video?" in ran.err


def test_options_win_over_set_and_set_over_the_file(run, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\n")

    def seed(*argv):
        return run("show-config", "--json", "--config", file, *argv).json["seed"]

    assert seed() == 1
    assert seed("--set", "seed=2") == 2
    assert seed("--seed", 3, "--set", "seed=2") == 3


def test_an_option_takes_no_more_than_a_settings_file(run):
    for option, name in (("--retrieval.tau", "retrieval.tau"), ("--lifting.near", "lifting.near")):
        for value in ("nan", "inf"):
            ran = run("demo", option, value)
            assert ran.code == 2 and f"{name} = {value}: expected a finite number" in ran.err
    ran = run("train", "vae", "--loop.lr", "inf", "--out", "run")
    assert ran.code == 2 and "loop.lr = inf: expected a finite number" in ran.err


def test_t7_with_json_stdout_holds_one_document_even_for_errors(run, memory, path, tmp_path):
    for argv in [
        ("inspect", memory, "--coverage"),
        ("lint", path),
        ("visualize", path),
        ("show-config",),
        ("recall", memory, "-t", path, "--frames", "0", "--out", tmp_path / "r", "-v"),
    ]:
        ran = run(*argv, "--json")
        assert ran.code == 0, ran.err
        assert isinstance(ran.json, dict)
    ran = run("inspect", tmp_path / "none", "--json")
    assert ran.code == 3
    assert ran.json["error"]["exit_code"] == 3
    assert "no such file" in ran.json["error"]["message"]
    assert run("nonsense", "--json").json["error"]["type"] == "ConfigError"


def test_l72_every_command_prints_its_back_end(run, memory, path, recording, tmp_path):
    for argv in [
        ("remember", recording, "--out", tmp_path / "a"),
        ("recall", memory, "-t", path, "--out", tmp_path / "b"),
        ("generate", "--memory", memory, "-t", path, "--out", tmp_path / "c", "--model", "synthetic"),
        ("inspect", memory),
        ("inspect", path),
        ("visualize", memory),
        ("splice", memory, memory, "--out", tmp_path / "d"),
        ("export-ply", memory, "--out", tmp_path / "e.ply"),
        ("convert", path, "--out", tmp_path / "f.json"),
        ("lint", path),
        ("bench", "--num-frames", 1, "--iterations", 1, "--width", 16, "--height", 16),
        ("show-config",),
    ]:
        ran = run(*argv)
        assert ran.code == 0, ran.err
        assert ran.out.removeprefix("# ").startswith(f"[synthetic] {argv[0]}: ")
        assert ran.err == ""


def test_nothing_is_overwritten_without_being_asked(run, memory, path, recording, tmp_path):
    for n, argv in enumerate(
        [
            ("remember", recording),
            ("recall", memory, "-t", path, "--frames", "0"),
            ("generate", "--memory", memory, "-t", path, "--frames", "0,1", "--model", "synthetic"),
            ("visualize", path),
            ("splice", path, path),
            ("export-ply", memory),
            ("convert", path, "--to", "tum"),
            ("lint", path),
            ("inspect", path),
            ("show-config",),
            ("bench", "--num-frames", 1, "--iterations", 1, "--width", 16, "--height", 16),
            ("demo", "--num-frames", 5, "--width", 16, "--height", 16, "--model", "synthetic"),
        ]
    ):
        out = tmp_path / f"out{n}"
        first = run(*argv, "--out", out)
        assert first.code == 0, first.err
        before = {name: (out / name).stat().st_mtime_ns for name in everything_in(out)} or out.stat().st_mtime_ns
        again = run(*argv, "--out", out)
        assert again.code == 2
        assert "already exists; nothing was written" in again.err
        after = {name: (out / name).stat().st_mtime_ns for name in everything_in(out)} or out.stat().st_mtime_ns
        assert after == before
        assert run(*argv, "--out", out, "--overwrite").code == 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_overwrite_spares_inputs_and_the_work_of_others(run, memory, path, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    ran = run("recall", memory, "-t", path, "--out", tmp_path / "photos", "--overwrite")
    assert ran.code == 2
    assert "mosaicmem did not write" in ran.err
    ran = run("recall", memory, "-t", path, "--out", memory, "--overwrite")
    assert ran.code == 2
    assert "holds the input" in ran.err
    assert (memory / "world.mosaic").exists()


def test_run_json_says_how_it_was_made(run, recording, tmp_path):
    out = tmp_path / "room"
    assert run("remember", recording, "--frames", "0,1", "--seed", 7, "--out", out).code == 0
    record = json.loads((out / "run.json").read_text())
    assert record["command"] == "remember"
    assert record["seed"] == record["config"]["seed"] == 7
    assert record["argv"][0] == "remember"
    assert record["backend"].startswith("[synthetic]")
    assert {"python", "mosaicmem", "torch"} <= set(record["versions"])
    assert {"read", "encode", "lift", "insert", "write"} <= set(record["timings_s"])
    assert set(record["files"]) == everything_in(out) - {"run.json"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (RuntimeError("boom"), 1), (OSError(28, "No space left on device"), 1)],
)
def test_whatever_stops_a_run_leaves_nothing_behind(run, monkeypatch, memory, path, tmp_path, error, code):
    def broken(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(recall_module, "coverage_chart", broken)  # after the videos have been written
    ran = run("recall", memory, "-t", path, "--out", tmp_path / "r")
    assert ran.code == code
    assert list(tmp_path.iterdir()) == []
    assert len(ran.err.splitlines()) == 1


def test_a_signal_ends_a_real_run_cleanly(tmp_path):
    """Interrupted: 130; terminated: 143; both in the middle of the work, with nothing left behind."""
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143}
    argv = [sys.executable, "-m", "mosaicmem", "demo", "--model", "synthetic", "--num-frames", "4001"]
    argv += ["--out", str(tmp_path / "out")]
    # whoever runs the tests in the background may ignore SIGINT, and children inherit that
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    start = partial(subprocess.Popen, argv, stderr=subprocess.PIPE, text=True, preexec_fn=heeding)
    processes = {sent: start() for sent in expected}
    time.sleep(6)  # well inside the rendering, which takes minutes
    try:
        for sent, process in processes.items():
            assert process.poll() is None
            process.send_signal(sent)
            _, err = process.communicate(timeout=60)
            assert process.returncode == expected[sent]
            assert "what was not finished was not written" in err
    finally:
        for process in processes.values():
            with process:
                process.kill()
    assert list(tmp_path.iterdir()) == []


def test_main_never_raises_for_odd_arguments():
    for argv in (["show-config", "--set"], ["show-config", "--config"], ["bench", "--seed", "x"], ["lint", "\x00"]):
        assert main(argv) in (1, 2, 3)


def test_messages_name_the_options_of_the_command_at_hand(run, tmp_path):
    odd = tmp_path / "odd.xyz"
    odd.write_bytes(bytes(range(1, 200)))
    for command, option in [("lint", "--format"), ("convert", "--from"), ("visualize", "--trajectory-format")]:
        ran = run(command, odd, *(["--out", tmp_path / "x.tum"] if command != "lint" else []))
        assert ran.code == 3 and f"with {option}" in ran.err and "format=" not in ran.err.replace(option, "")
