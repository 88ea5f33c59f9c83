"""The parity plane: the only process that knows what the relayed bytes mean. Nothing here can reach a client.

    rows.py         what the ledger keeps, and the seams Ledger and MonitorView

    pipeline.py     Monitor: relay events in, rows and a verdict out; joins the rooms below
    intake.py       events to slots, jobs and rows
    order.py        the sampling order: a place for every sampled request, rows released in that order
    jobs.py         the bounded backlog, and the work on one exchange:
      plan.py         eligible or not, which calls, which coins;  coding.py undoes content codings
      probes.py       planted needles;  forcing.py teacher-forced calls
      mirror.py       calls the arms: bounded, timed, guarded by breaker.py
      verify.py       the reference reads the reply before it is asked for one;  heard.py what came back, and by whom
      costs.py        the reference's tokens, as its replies tell them;  reference_use.py counts them for Prometheus
      evaluate.py     replies to scores, and the bodies worth keeping;  redact.py takes out what may not be kept
      record.py       the row that a slot ends in
    writer.py       rows to the ledger, in batches, by one thread
    rollout.py      the staged rollout: its steps, and the way back;  the relays are told over the feed
    standing.py     the current epoch's evidence and its verdict;  watch.py notices changed arms
      trail.py        how the evidence came to stand where it does, for pictures;  history.py when the verdict changed

    ledger.py       the ledger in SQLite; its rooms: ledger_file, _reader, _pairs, _snapshot, _records, packing,
                    retention
    exposition.py   what Prometheus sees
    control.py      the control port;  guard.py, gate.py, page_routes.py with page/ its rooms
      readable.py     one pair for people:  calls.py argument by argument, recalled.py facts and where they stood

Threads: the event loop; one for parsing and scoring; one that writes the ledger. Every queue is bounded, and what does
not fit becomes a row that says so.
"""
