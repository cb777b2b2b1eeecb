"""entries.py FILE: the entries of a list in JSON or YAML, a line each, keys and entries sorted."""
import json
import sys

text = open(sys.argv[1]).read()
if text.lstrip()[:1] in "[{":
    entries = json.loads(text)
else:
    import yaml
    entries = yaml.safe_load(text)
print("\n".join(sorted(json.dumps(entry, sort_keys=True, default=str) for entry in entries)))
