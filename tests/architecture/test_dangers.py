"""What no module of ours does, because it would be a way in: code out of data, and ways out beside the guarded one."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(ROOT / "batchinfer").rglob("*.py"),
    *(ROOT / "workers").rglob("*.py"),
    *(ROOT / "migrations").rglob("*.py"),
]
#: Modules that make objects, or code, out of bytes.
UNSAFE = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
#: Modules that reach other machines.
NETWORK = {"requests", "httpx", "httpx2", "urllib3", "aiohttp", "http.client", "urllib.request", "ftplib", "smtplib"}
#: Who may use them, and why no user chooses where they lead.
OUTWARD = {
    "batchinfer/media/outward.py": "the guarded way out",
    "batchinfer/doctor/port_checks.py": "knocks at the port that this host's own web server is told to have",
    "batchinfer/client": "a client of this service, in a program of the user's",
    "batchinfer/demo": "asks the service that it started",
    "batchinfer/stack": "asks the processes that it started whether they are healthy",
    "batchinfer/cli": "asks the service that its user names",
    "workers/engine/remote": "asks the server that an operator named in a deployment",
    "workers/engine/exchange.py": "asks the server that an operator named in a deployment",
    "workers/engine/upstream.py": "asks the server that an operator named in a deployment",
    "workers/engine/looking.py": "asks the server that an operator named in a deployment",
    "workers/engine/vllm.py": "asks the server that it started",
}


def imports(tree: ast.AST) -> set[str]:
    """Full names of the modules that are imported, and of what is imported from them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def calls(tree: ast.AST) -> set[str]:
    """Dotted names of what is called, and `shell=True` where that is passed."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
            found |= {
                "shell=True" for word in node.keywords if word.arg == "shell" and ast.unparse(word.value) != "False"
            }
    return found


def uses(modules: set[str], names: set[str]) -> set[str]:
    return {name for name in modules if any(name == bad or name.startswith(f"{bad}.") for bad in names)}


def test_no_data_becomes_code() -> None:
    bad_calls = {"eval", "exec", "compile", "torch.load", "yaml.load", "os.system", "os.popen", "shell=True"}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert not uses(imports(tree), UNSAFE), path
        assert not calls(tree) & bad_calls, path


def test_there_is_one_way_out() -> None:
    users = {str(path.relative_to(ROOT)) for path in SOURCES if uses(imports(ast.parse(path.read_text())), NETWORK)}
    assert "batchinfer/media/outward.py" in users, "the test sees what it looks for"
    assert [name for name in users if not name.startswith(tuple(OUTWARD))] == []


def test_a_models_own_code_is_never_asked_for() -> None:
    """Every loader that is called says so; only those that choose a class by what a folder says could run its code."""
    seen = 0
    for path in (ROOT / "workers" / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if ast.unparse(node.func) != "without_checks.from_pretrained":  # a class of transformers itself
                    assert words.get("trust_remote_code") == "False", f"{path}:{node.lineno}"
                assert words.get("local_files_only") == "True", f"{path}:{node.lineno}"
                seen += 1
    assert seen >= 3


def test_the_scan_sees_what_it_should() -> None:
    tree = ast.parse("import pickle\nfrom urllib import request\nsubprocess.run('x', shell=True)\neval('1')")
    assert uses(imports(tree), UNSAFE) == {"pickle"}
    assert uses(imports(tree), NETWORK) == {"urllib.request"}
    assert {"eval", "shell=True"} <= calls(tree)
