"""`dacycle bench profile`: where the time of a process goes."""

import json
import os
import shutil
import subprocess
import sys

from dacycle.cycler.timing import profile, sampling
from dacycle.cycler.timing.measure import children_seconds
from dacycle.cycler.timing.profile import profile_commands
from tests.cycler import replays


def test_a_process_is_sampled_by_the_function_of_dacycle_that_works(tmp_path):
    package = tmp_path / "dacycle/cycler"
    package.mkdir(parents=True)
    (package / "busy.py").write_text(
        "import time\n"
        "def work(seconds):\n"
        "    until = time.process_time() + seconds\n"
        "    while time.process_time() < until: sum(range(1000))\n"
    )
    shutil.copy(sampling.__file__, tmp_path / "sitecustomize.py")
    code = "import busy; busy.work(0.5)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(package)])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    (file,) = tmp_path.glob("*.json")
    seconds = json.loads(file.read_text())
    assert max(seconds, key=seconds.__getitem__) == "cycler/busy.py:work"
    assert 0.4 < seconds["cycler/busy.py:work"] < 0.6


def test_each_child_has_its_own_processor_time():
    work = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\n"
    code = {"busy": f"{work}input()", "idle": "print(flush=True)\ninput()"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = {name: subprocess.Popen([sys.executable, "-S", "-c", text], **pipes) for name, text in code.items()}
    try:
        for child in children.values():
            child.stdout.readline()
        seconds = {name: children_seconds()[child.pid] for name, child in children.items()}
    finally:
        for child in children.values():
            child.communicate(b"\n")
    assert 0.45 <= seconds["busy"] < 0.7
    assert seconds["idle"] < 0.3
    assert not children_seconds().keys() & {child.pid for child in children.values()}


def test_places_are_gathered_by_stage(world, tmp_path, monkeypatch):
    content = replays.content(world.folder, world.model, tmp_path)
    monkeypatch.setattr(profile, "usual_commands", lambda *_: {"help": ["--help"]})
    (of_help,) = profile_commands(replays.experiment(content), 2).commands.values()
    assert {"importing", "rest"} <= of_help.stages.keys() == of_help.most.keys()
    assert abs(sum(of_help.stages.values()) - of_help.processor) < 0.1
