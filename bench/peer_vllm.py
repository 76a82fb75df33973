"""vLLM without its HTTP server, so that only engines are compared. Run by the Python of vLLM's own environment.

A line of JSON in (`{"requests": [{"messages", "max_tokens"}]}`) gives a line of JSON out (`{"seconds", "texts"}`).
Needs nothing of this project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Load the model, say so, then answer lines until there are no more."""
    # Engines log to standard output; answers need one of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024)
    given = parser.parse_args()
    from vllm import LLM, SamplingParams, __version__  # type: ignore[import-not-found]  # only in its own environment

    llm = LLM(
        model=given.model,
        dtype="float32",
        max_model_len=given.context,
        max_num_seqs=given.rows,
        enforce_eager=True,
        limit_mm_per_prompt={"image": 1, "video": 0},
        mm_processor_cache_gb=0,
    )

    def tell(line: dict[str, Any]) -> None:
        answers.write(json.dumps(line) + "\n")
        answers.flush()

    tell({"ready": True, "version": __version__})
    for line in sys.stdin:
        requests = json.loads(line)["requests"]
        llm.reset_prefix_cache()
        wanted = [SamplingParams(temperature=0, max_tokens=r["max_tokens"], ignore_eos=True) for r in requests]
        messages = [request["messages"] for request in requests]
        began = time.perf_counter()
        found = llm.chat(messages, wanted, use_tqdm=False)
        seconds = time.perf_counter() - began
        tell({"seconds": seconds, "texts": [answer.outputs[0].text for answer in found]})


if __name__ == "__main__":
    main()
