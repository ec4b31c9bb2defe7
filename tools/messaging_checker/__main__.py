"""The command `python -m tools.messaging_checker FOLDER`: judges a run by what it wrote and by its servers."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tools.messaging_checker import written
from tools.messaging_checker.evidence import Evidence
from tools.messaging_checker.tables import read_reading, read_writing
from tools.messaging_checker.topic import read_topic
from tools.messaging_checker.verdict import PROMISES, judge

_EXAMPLES = 5


def main() -> int:
    """Status 0 if no promise is broken, 1 if one is. `verdict.json` in the folder tells more."""
    parser = argparse.ArgumentParser(prog="python -m tools.messaging_checker", description=__doc__)
    parser.add_argument("folder", type=Path, help="what a run has written")
    parser.add_argument("--writing", required=True, help="URL of the database of the service that decides")
    parser.add_argument("--reading", required=True, help="URL of the database of the service that consumes")
    parser.add_argument("--kafka", required=True, help="host:port")
    parser.add_argument("--topic", required=True)
    options = parser.parse_args()
    verdict = judge(asyncio.run(gather(options.folder, options.writing, options.reading, options.kafka, options.topic)))
    told = {"figures": verdict.figures, "broken": verdict.counts(), "findings": verdict.findings[:1000]}
    (options.folder / written.VERDICT).write_text(json.dumps(told, indent=1) + "\n")
    for name, figure in verdict.figures.items():
        print(f"{figure:>10,}  {name}")
    for name, count in verdict.counts().items():
        print(f"{count:>10,}  {name}: {PROMISES[name]}")
        for _, sentence in [one for one in verdict.findings if one[0] == name][:_EXAMPLES]:
            print(f"{'':12}{sentence}")
    print("BROKEN" if verdict.broken else "OK")
    return int(verdict.broken)


async def gather(folder: Path, writing: str, reading: str, kafka: str, topic: str) -> Evidence:
    evidence = Evidence(written.terms(folder), written.commands(folder), faults=written.faults(folder))
    evidence.calls, evidence.unfinished = written.calls(folder), written.unfinished(folder)
    await read_writing(writing, evidence)
    await read_reading(reading, evidence)
    evidence.records = await read_topic(kafka, topic)
    return evidence


if __name__ == "__main__":
    sys.exit(main())
