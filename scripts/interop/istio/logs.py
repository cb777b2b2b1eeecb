"""logs.py LOG: how many lines `istioctl bug-report` and Kiali can split, as `WHO=GOOD/ALL`."""

import re, sys

LEVELS = {"fatal", "error", "warn", "info", "debug", "trace"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")

lines = open(sys.argv[1], encoding="utf-8").read().splitlines()
# What does not begin with a digit goes on with the line before, as a configuration does.
lines = [line for n, line in enumerate(lines) if n == 0 or line[:1].isdigit()]
bug_report = access = kiali = 0
for line in lines:
    parts = line.split("\t")
    bug_report += len(parts) >= 3 and bool(TIME.match(parts[0])) and parts[1].lower() in LEVELS
    if "\taccess\t" in line and " duration=" in line:
        access += 1
        fields = dict(f.split("=", 1) for f in parts[4].split(" ") if "=" in f) if len(parts) >= 5 else {}
        values = {name: value.strip('"') for name, value in fields.items()}
        kiali += "src.addr" in values and "dst.addr" in values and values.get("duration", "").endswith(("ms", "s"))
print(f"bug-report={bug_report}/{len(lines)}")
print(f"Kiali={kiali}/{access}")
