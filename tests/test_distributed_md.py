"""DISTRIBUTED.md: its scripts are what shells, YAML and Python take, with names that exist."""

import ast
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import fastbptt

TEXT = Path(fastbptt.__file__).with_name("DISTRIBUTED.md").read_text()


def blocks(language):
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found
    return found


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_shell_scripts():
    for script in blocks("sh"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    slurm = blocks("sh")[-1]
    options = re.findall(r"^#SBATCH (--[a-z-]+)=\S+", slurm, re.MULTILINE)
    assert len(options) == slurm.count("#SBATCH") == 6


def test_python():
    known = {*inspect.signature(fastbptt.fit).parameters}
    for program in blocks("python"):
        for call in ast.walk(ast.parse(program)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "fastbptt.fit":
                assert {keyword.arg for keyword in call.keywords} <= known


def test_the_job_for_kubernetes():
    yaml = pytest.importorskip("yaml")
    job: Any = yaml.safe_load(blocks("yaml")[0])
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    replicas = job["spec"]["mpiReplicaSpecs"]
    ranks = replicas["Worker"]["replicas"] * job["spec"]["slotsPerWorker"]
    [launcher] = replicas["Launcher"]["template"]["spec"]["containers"]
    assert launcher["command"][:3] == ["mpiexec", "-n", str(ranks)]
    [worker] = replicas["Worker"]["template"]["spec"]["containers"]
    assert launcher["env"][0]["value"] == str(worker["resources"]["limits"]["cpu"])
