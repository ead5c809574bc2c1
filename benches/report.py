"""What compare.py says of its figures: the table, the page with all that led to it, the plot."""
import os, platform, statistics, time
from pathlib import Path

BASELINE, OURS, NO_PROXY = "nginx", "prusik", "(no proxy)"

# (workload, figure, at most, relative to nginx?)
TARGETS = [
    ("echo64", "cpu_us", 1.05, True),
    ("echo16k", "cpu_us", 0.80, True),
    ("handshakes", "cpu_us", 1.15, True),
    ("get", "cpu_us", 1.60, True),
    ("idle", "idle_kib", 2.5, False),
    ("idle", "talked_kib", 2.5, False),
    ("idle", "idle_cpu_ms_s", 1.0, False),
    ("wss_echo64", "cpu_us", 0.85, True),
    ("wss_echo16k", "cpu_us", 0.75, True),
    ("wss_wss_echo64", "cpu_us", 0.85, True),
    ("wss_echo64_shared", "cpu_us", 0.85, True),
    ("wss_wss_echo64_shared", "cpu_us", 0.85, True),
    ("wss_idle", "idle_kib", 3.5, False),
    ("stream_idle", "idle_kib", 3, False),
    ("stream_idle", "idle_cpu_ms_s", 1.0, False),
]

ROWS = [
    ("echo64", "echo of 64 B, 50 sessions"),
    ("echo16k", "echo of 16 KiB, 50 sessions"),
    ("handshakes", "connect, handshake, close, 16 at a time"),
    ("get", "keep-alive GET of 128 B, 50 connections"),
    ("wss_echo64", "echo of 64 B by wss, 50 sessions"),
    ("wss_echo16k", "echo of 16 KiB by wss, 50 sessions"),
    ("wss_wss_echo64", "echo of 64 B, wss on both sides, 50 sessions"),
    ("wss_echo64_shared", "echo of 64 B by wss, on the load's core"),
    ("wss_wss_echo64_shared", "echo of 64 B, wss on both sides, on the load's core"),
]
IDLE_TABLES = [
    ("idle", "5,000 idle sessions"),
    ("wss_idle", "5,000 idle sessions by wss"),
    ("stream_idle", "5,000 idle event streams"),
]
IDLE_ROWS = [
    ("idle_kib", "memory, KiB a session"),
    ("talked_kib", "after each echoed 16 KiB, KiB a session"),
    ("idle_cpu_ms_s", "CPU while idle, ms a second"),
]


def median(rounds, figure):
    return statistics.median(figures[figure] for figures in rounds)


def ratios(results, workload, name, figure="cpu_us"):
    """To nginx in the same round, one a round; none without nginx."""
    ours, base = results[workload].get(name, []), results[workload].get(BASELINE, [])
    return [a[figure] / b[figure] for a, b in zip(ours, base)]


def verdicts(results):
    """{(workload, figure): (target in words, met?)} of what was measured."""
    found = {}
    for workload, figure, most, relative in TARGETS:
        rounds = results.get(workload, {}).get(OURS)
        if not rounds or relative and not ratios(results, workload, OURS):
            continue
        value = statistics.median(ratios(results, workload, OURS)) if relative else median(rounds, figure)
        words = f"<= {most:g}" + (" x nginx" if relative else "")
        found[workload, figure] = (words, value <= most)
    return found


def markdown(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def table(results, names):
    """The tables, and the names of the targets that prusik missed."""
    judged = verdicts(results)

    def verdict(workload, figure):
        words, met = judged.get((workload, figure), ("", None))
        return words if met is None else f"{words}: {'pass' if met else 'MISSED'}"

    parts = []
    rows = [["workload", "proxy", "CPU µs/op", "x nginx (least to most)", "ops/s", "p50 µs", "p99 µs", "target"]]
    for workload, title in ROWS:
        for name in [*names, NO_PROXY]:
            rounds = results.get(workload, {}).get(name)
            if not rounds:
                continue
            relative = ratios(results, workload, name)
            times = ""
            if relative and name not in (BASELINE, NO_PROXY):
                times = f"{statistics.median(relative):.2f} ({min(relative):.2f} to {max(relative):.2f})"
            rows.append([title, name, "" if name == NO_PROXY else f"{median(rounds, 'cpu_us'):.1f}", times, f"{median(rounds, 'ops_s'):.0f}",
                         f"{median(rounds, 'p50_us'):.0f}", f"{median(rounds, 'p99_us'):.0f}",
                         verdict(workload, "cpu_us") if name == OURS else ""])
    if len(rows) > 1:
        parts.append(markdown(rows))
    for workload, heading in IDLE_TABLES:
        if results.get(workload):
            measured = [name for name in names if name in results[workload]]
            rows = [[heading, *measured, "target"]]
            for figure, title in IDLE_ROWS:
                if figure not in results[workload][measured[0]][0]:
                    continue
                rows.append([title, *(f"{median(results[workload][name], figure):.2f}" for name in measured),
                             verdict(workload, figure)])
            parts.append(markdown(rows))
    return "\n\n".join(parts), [f"{workload} {figure}" for (workload, figure), (_, met) in judged.items() if not met]


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"


PAGE = """\
# prusik beside others

{kind}, {date}, by `python benches/compare.py {given}`.

![CPU an operation and memory an idle session](latest.svg)

{table}

- **CPU µs/op**: CPU time of all the proxy's processes and threads, in user and kernel mode, by the
  operations that the client saw done and the origin saw arrive. Medians;
  **x nginx** is the median of the ratios to nginx in the same turn.
- **ops/s and latency** are those of a load that always has its next operation ready. The client
  and the origin share a core, and bound the throughput too: `(no proxy)` is what they do without
  one. A handshake's latency ends with the 101, its operation with the closed connection.
- **On the load's core**: on a core of its own, a proxy that is faster than the load is woken for each
  message, and a slower one finds several at a time, which costs the kernel less for each. On one core
  all find as many, and what is compared is the proxies.
- **Memory** is `Pss_Anon` + `Pss_Shmem` of all the proxy's processes (`/proc/PID/smaps_rollup`):
  what was added between 300 sessions that came and went, and 5,000 that are open, by 5,000. What
  the kernel holds for sockets is in nobody's figure.
- Targets are for `prusik` as it is by default.

| | |
|---|---|
| machine | {machine} |
| pinned | {pinned} |
| run | {plan}; took {took} |
| others on the proxies' core | {noise:.1f} % |
{notes}
## What was compared
{proxies}"""


def page(table, facts, columns, directory):
    blocks = []
    for kind in columns:
        path = Path(directory) / f"{kind.name}.{kind.suffix}"
        command = " ".join(kind.command(path)).replace(str(directory), "target/bench")
        config = path.read_text().replace(str(directory), "target/bench").rstrip()
        blocks.append(f"\n### {kind.name}\n\n{kind.version}\n\n```text\n$ {command}\n\n{config}\n```\n")
    return PAGE.format(kind="A quick run" if facts["quick"] else "A full run", date=time.strftime("%Y-%m-%d %H:%M %Z"),
                       table=table, machine=machine(), notes="".join(f"| note | {line} |\n" for line in facts["left_out"]),
                       proxies="".join(blocks),
                       **{name: facts[name] for name in ("plan", "took", "pinned", "noise", "given")})


# ------------------------------------------------------------------------------------------ plot

COLOURS = {"prusik": "#c2410c", "prusik-plain": "#fb923c", "prusik-pingora": "#fed7aa", "nginx": "#475569",
           "haproxy": "#94a3b8", "caddy": "#cbd5e1", "envoy": "#a8a29e"}
LEFT, TOP, PANEL, BAR, GAP = 44, 66, 170, 26, 26


def plot(results, names):
    """Two panels of grouped bars: CPU relative to nginx, memory a session."""
    cpu = []
    for workload, _ in ROWS:
        bars = [(name, statistics.median(ratios(results, workload, name)))
                for name in names if ratios(results, workload, name)]
        limit = next(most for target, _, most, _ in TARGETS if target == workload)
        if bars:
            cpu.append((workload, bars, limit))
    memory = []
    for figure, title in (("idle_kib", "idle"), ("talked_kib", "after 16 KiB")):
        bars = [(name, median(results["idle"][name], figure)) for name in names if name in results.get("idle", {})]
        if bars:
            memory.append((title, bars, 2.5))

    panels = [("CPU an operation, nginx = 1", cpu), ("memory a session, KiB", memory)]
    parts, x = [], LEFT
    for title, groups in panels:
        if groups:
            drawn, x = panel(title, groups, x)
            parts += drawn
    legend, at = [], LEFT
    for name in names:
        legend += [f'<rect x="{at}" y="12" width="12" height="12" fill="{COLOURS[name]}"/>',
                   f'<text x="{at + 17}" y="22">{name}</text>']
        at += 40 + 7 * len(name)
    legend += [f'<path d="M{at} 18h16" stroke="#15803d" stroke-dasharray="4 2"/>',
               f'<text x="{at + 21}" y="22">prusik\'s target</text>']
    width, height = max(x, at + 130), TOP + PANEL + 40
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="system-ui, sans-serif" font-size="12" fill="#1e293b">\n'
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(legend + parts) + "\n</svg>\n")


def panel(title, groups, x):
    """The elements of one panel that begins at `x`, and where the next one may begin."""
    scale = PANEL / max(value for _, bars, limit in groups for value in [limit, *(bar for _, bar in bars)])
    floor = TOP + PANEL
    parts, start = [f'<text x="{x}" y="{TOP - 22}" font-weight="600">{title}</text>'], x
    for label, bars, limit in groups:
        for i, (name, value) in enumerate(bars):
            height = max(0, value * scale)
            left = x + i * BAR
            parts.append(f'<rect x="{left}" y="{floor - height:.1f}" width="{BAR - 3}" height="{height:.1f}" '
                         f'fill="{COLOURS[name]}"/>')
            words = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            parts.append(f'<text x="{left + (BAR - 3) / 2}" y="{floor - height - 4:.1f}" font-size="10" '
                         f'text-anchor="middle" stroke="#fff" stroke-width="3" paint-order="stroke">{words}</text>')
        width = len(bars) * BAR - 3
        # Under the figures, which have a white rim.
        parts.insert(1, f'<path d="M{x - 3} {floor - limit * scale:.1f}h{width + 6}" stroke="#15803d" '
                        'stroke-dasharray="4 2"/>')
        parts.append(f'<text x="{x + width / 2}" y="{floor + 18}" text-anchor="middle">{label}</text>')
        x += width + GAP
    parts.append(f'<path d="M{start - 6} {floor}H{x - GAP + 6}" stroke="#94a3b8"/>')
    return parts, x + GAP
