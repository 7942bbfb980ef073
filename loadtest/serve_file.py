"""`python -m loadtest.serve_file FILE PORT`: serve a file's application until interrupted.

As `serve run FILE` does, but with logical CPUs enough for replicas that wait more than they
compute, for whatever application is compared.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

import ray
import yaml
from ray import serve

_MIN_CPUS = 16


def main(config: Path, port: int) -> None:
    (application,) = yaml.safe_load(config.read_text())["applications"]
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: sys.exit(0))  # also while replicas start
    module, _, builder = application["import_path"].partition(":")
    ray.init(
        address="local",
        num_cpus=max(_MIN_CPUS, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        app = getattr(import_module(module), builder)(application["args"])
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app, name=application["name"], route_prefix=application["route_prefix"])
        threading.Event().wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
