"""The sentence for an event, for `make messages` and for the replays on the site."""


def describe_result(event):
    """Return the state and value of an event, and the beginning of its task's id."""
    return f"{event['state']} {event['value']} for {event['id'][:8]}"


def describe_call(event):
    """Return the call of an event, and the beginning of its task's id."""
    return f"{event['call']} {event['id'][:8]}".rstrip()


def find_route(event, worker):
    """Return who sends an event to whom."""
    match event["what"]:
        case "wait":
            return "client … backend"
        case "send" | "back":
            sender = event["sender"]
            return f"{sender} → broker"
        case "take":
            return f"broker → {worker}"
        case "ack":
            return f"{worker} → broker"
        case "arrive":
            return "backend → client"
    return f"{worker} → backend"


def describe(event):
    """Return what an event is."""
    match event["what"]:
        case "wait":
            return f"waits for {event['id'][:8]}"
        case "send":
            return f"{describe_call(event)} waits in queue '{event['queue']}'"
        case "back":
            return f"{describe_call(event)} goes back into queue '{event['queue']}'"
        case "take":
            return f"{describe_call(event)} is taken"
        case "ack":
            return f"{describe_call(event)} is acknowledged"
        case "arrive":
            return f"{describe_result(event)} arrives"
        case "join":
            chord = f"the chord {event['chord'][:8]}, number {event['number']}"
            return f"{event['state']} {event['value']} joins {chord}"
    if "kept" in event:
        return f"{describe_result(event)}, kept for {event['kept']} s"
    return f"{describe_result(event)}, kept forever"


def sentence(event, worker):
    """Return an event's line without its time, in two parts: who to whom, and what."""
    text = describe(event)
    if event["what"] == "take" and "until" in event:
        text += ", and is held"
    if "until" in event:
        text += f" until {event['until']}"
    return find_route(event, worker), text


def join_line(seconds, route, text):
    """Return the line of a sentence, whose two parts these are."""
    return f"{seconds:8.3f}  {route:<16}  {text}"
