"""`python -m training.stages.data`: check, list, import, fetch and locate datasets.

Users know it as `sequence-runner data`. It is no unit of a run: it answers on stdout (one JSON object
with `--json`, of an error too), reports progress on stderr, and ends with the public exit codes; an error is one line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.assets import DEFAULT_DATA_DIRS, TIMEFRAME_S, can_be_fetched
from configs.errors import CannotWriteError, DatasetNotFoundError, ExitCode, MachineUnfitError, ProjectError
from configs.secrets import one_line
from training.sources.catalog import Located, available, locate

DATA_DIR_HELP = "repeatable, searched in order, written to the first; default: ./data, then /data"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    arguments.data_dir = arguments.data_dir or list(DEFAULT_DATA_DIRS)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        answer, text = arguments.command(arguments)
    except ProjectError as error:
        return _fail(arguments, str(error), error.exit_code)
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or error}"
        return _fail(arguments, message, CannotWriteError.exit_code)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED if arguments.command is fetch_dataset else ExitCode.CTRL_C
        return _fail(arguments, "interrupted; run the same command again", code)
    _print(json.dumps(answer, allow_nan=False) if arguments.json else text)
    return ExitCode.DONE


def check(arguments: argparse.Namespace) -> tuple[dict, str]:
    """Load a dataset, fetching it first where it is missing and may be fetched, and report what was found."""
    located = _locate_or_fetch(arguments)
    from training.market import assign_segments
    from training.sources.load import load_dataset
    from training.sources.report import as_text
    from training.splits import month_counts

    bars, report = load_dataset(located.name, options=arguments, path=located.path)
    opens = [*bars.t.tolist(), int(bars.t[-1]) + bars.timeframe_s]
    trained = min(max(round(len(bars) * arguments.train_frac), 1), len(bars))
    edges = {"predicted_t": opens[trained // (arguments.folds + 1)], "train_stop_t": opens[trained]}
    segment = assign_segments(bars.t, arguments.max_gap_s) if arguments.max_gap_s else bars.segment
    months = month_counts(bars.t, segment, arguments.before_bars, arguments.horizon_bars)
    return report.as_json() | edges | {"months": months}, as_text(report)


def list_datasets(arguments: argparse.Namespace) -> tuple[dict, str]:
    """Every dataset of the data directories with rows, range and size, or why it cannot be read."""
    entries = [_entry(name, path) for name, path in available(arguments.data_dir).items()]
    lines = [
        f"{entry['name']:32} {entry['error']}"
        if "error" in entry
        else f"{entry['name']:32} {entry['rows']:>10,} bars  {_day(entry['first_t'])} .. {_day(entry['last_t'])}  "
        f"{entry['size_bytes']:>12,} bytes"
        for entry in entries
    ]
    where = ", ".join(map(str, arguments.data_dir))
    return {"datasets": entries}, "\n".join(lines) or f"no dataset in {where}; DEMO-USD_1H is generated when asked for"


def import_file(arguments: argparse.Namespace) -> tuple[dict, str]:
    """Read a file of any kind and write it in the canonical form."""
    from training.sources.canonical import write_canonical
    from training.sources.load import load_dataset
    from training.sources.report import as_text

    located = locate(_as_path(arguments.file), (), symbol=arguments.symbol, timeframe=arguments.timeframe)
    directory = arguments.data_dir[0]
    taken = available([directory]).get(located.name)
    if taken is not None:
        raise CannotWriteError(f"{taken} is {located.name} already; remove it or choose another --data-dir")
    bars, report = load_dataset(located.name, options=arguments, path=located.path)
    target = directory / f"{located.name}.csv.gz"
    write_canonical(bars, target)
    return report.as_json() | {"written": str(target)}, f"{as_text(report)}\n  written      {target}"


def fetch_dataset(arguments: argparse.Namespace) -> tuple[dict, str]:
    """Fetch a dataset into the first data directory."""
    fetched = _fetch(arguments.name, arguments.data_dir[0], arguments)
    from training.sources.load import LoadOptions, load_dataset
    from training.sources.report import as_text

    _, report = load_dataset(arguments.name, options=LoadOptions(asset_class=arguments.asset_class), path=fetched.path)
    report.dropped = fetched.dropped
    return report.as_json(), as_text(report)


def locate_dataset(arguments: argparse.Namespace) -> tuple[dict, str]:
    """Say which file a dataset is, without reading it."""
    located = locate(arguments.dataset, arguments.data_dir, symbol=arguments.symbol, timeframe=arguments.timeframe)
    answer = {"name": located.name, "path": str(located.path or ""), "synthetic": located.path is None}
    return answer, f"{located.name} {located.path or '(generated)'}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sequence-runner data",
        description="Check, list, import, fetch and locate datasets: files of open, high, low, close, volume bars.",
        epilog="NAME is BASE-QUOTE_TIMEFRAME, for example ADA-EUR_1H, with _YYYYMMDD-YYYYMMDD behind it for a range.",
    )
    commands = parser.add_subparsers(required=True, metavar="{check,list,import,fetch,locate}")

    def add(name: str, command: Callable, *groups: Callable[[argparse.ArgumentParser], None]) -> None:
        does = (command.__doc__ or "").strip()
        sub = commands.add_parser(name, help=does, description=does)
        sub.set_defaults(command=command)
        sub.add_argument("--data-dir", type=Path, action="append", help=DATA_DIR_HELP)
        sub.add_argument("--json", action="store_true", help="one JSON object on stdout")
        for group in groups:
            group(sub)

    add("check", check, _dataset_option, _file_options, _read_options, _fetch_options, _offline_option, _plan_options)
    add("list", list_datasets)
    add("import", import_file, _file_argument, _file_options, _read_options)
    add("fetch", fetch_dataset, _name_argument, _fetch_options, _repair_option, _class_option)
    add("locate", locate_dataset, _dataset_option, _file_options)
    return parser


def _file_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", help="of any kind that is read")


def _name_argument(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("name", help="BASE-QUOTE_TIMEFRAME, with _YYYYMMDD-YYYYMMDD behind it for a range")


def _dataset_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dataset", required=True, help="a name such as ADA-EUR_1H, or a path")


def _file_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--symbol", default="", help="BASE-QUOTE of a file whose name does not say it")
    sub.add_argument(
        "--timeframe",
        default="",
        choices=["", *TIMEFRAME_S],
        metavar="TIMEFRAME",
        help=f"timeframe of such a file: {', '.join(TIMEFRAME_S)}",
    )


def _read_options(sub: argparse.ArgumentParser) -> None:
    _repair_option(sub)
    sub.add_argument("--timezone", default="auto", help="zone of stamps that carry none; default: %(default)s")
    sub.add_argument("--resample", action="store_true", help="build the timeframe from a finer one")
    _class_option(sub)


def _repair_option(sub: argparse.ArgumentParser) -> None:
    says = "drop: leave faulty rows out, list them; default: %(default)s"
    sub.add_argument("--repair", choices=["none", "drop"], default="none", help=says)


def _class_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--asset-class",
        default="",
        choices=["", "crypto", "fx", "commodity"],
        metavar="CLASS",
        help="crypto, fx or commodity, where the symbol is not in the table",
    )


def _fetch_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--source",
        default="auto",
        choices=["auto", "ccxt", "histdata", "yahoo"],
        help="of the data; default: %(default)s, by asset class",
    )
    says = "of ccxt, comma separated, tried in order; default: %(default)s"
    sub.add_argument("--exchange", default="binance", help=says)


def _offline_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--offline", action="store_true", help="never fetch")
    # for the runner: where to keep what is fetched, instead of the first --data-dir
    sub.add_argument("--fetch-dir", type=Path, help=argparse.SUPPRESS)


def _plan_options(sub: argparse.ArgumentParser) -> None:
    # for the runner: the share of the bars that is trained on, and its pieces, after the first, that are predicted;
    # the longest gap in a segment, its bars before its first window's last, those that a label looks ahead
    sub.add_argument("--train-frac", type=float, default=1.0, help=argparse.SUPPRESS)
    sub.add_argument("--folds", type=int, default=0, help=argparse.SUPPRESS)
    for name in ("--max-gap-s", "--before-bars", "--horizon-bars"):
        sub.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)


def _locate_or_fetch(arguments: argparse.Namespace) -> Located:
    try:
        return locate(arguments.dataset, arguments.data_dir, symbol=arguments.symbol, timeframe=arguments.timeframe)
    except DatasetNotFoundError as missing:
        if arguments.offline or not can_be_fetched(arguments.dataset):
            raise
        try:
            directory = arguments.fetch_dir or arguments.data_dir[0]
            return Located(arguments.dataset, _fetch(arguments.dataset, directory, arguments).path)
        except (MachineUnfitError, DatasetNotFoundError) as error:
            raise DatasetNotFoundError(f"{missing}; fetching it failed: {error}") from error


def _fetch(name: str, directory: Path, arguments: argparse.Namespace) -> Any:
    from training.sources.fetch import base_urls, fetch, open_source

    source = open_source(name, kind=arguments.source, exchange=arguments.exchange, urls=base_urls(os.environ))

    def report(progress: Any) -> None:
        if arguments.json:
            line = json.dumps({"kind": "progress", "unit": "data/fetch", **vars(progress)})
        else:
            line = f"{progress.source}: piece {progress.done} of {progress.total}, {progress.rows:,} bars"
        print(line, file=sys.stderr, flush=True)  # noqa: T201 -- progress goes to stderr

    return fetch(name, directory, source, repair=arguments.repair, report=report)


def _entry(name: str, path: Path) -> dict:
    from training.sources.load import load_dataset

    entry = {"name": name, "path": str(path), "size_bytes": path.stat().st_size}
    try:
        _, report = load_dataset(name, path=path)
    except ProjectError as error:
        return entry | {"error": str(error)}
    return entry | {"rows": report.rows, "first_t": report.first_t, "last_t": report.last_t}


def _as_path(file: str) -> str:
    """The argument of `import` is a path even where it looks like a name."""
    return file if "/" in file else f"./{file}"


def _day(t: int) -> str:
    from training.sources.stamps import day_name

    return day_name(t)[:10]


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(arguments: argparse.Namespace, message: str, code: ExitCode) -> int:
    line = one_line(message, limit=None)
    print(line, file=sys.stderr)  # noqa: T201 -- one line for a person or the runner
    if arguments.json:
        _print(json.dumps({"exit_code": int(code), "error": line}))
    return code


def _print(answer: str) -> None:
    """The answer on stdout; a reader that has seen enough (`| head`) is no error."""
    try:
        print(answer, flush=True)  # noqa: T201 -- the answer is the output
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
