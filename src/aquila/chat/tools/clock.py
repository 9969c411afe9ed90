"""The date and time."""

from datetime import datetime as Datetime
from datetime import timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aquila.chat.tools.declare import tool
from aquila.errors import ConfigError

WEEKDAYS = ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日")


@tool(zh="告诉现在的日期、时间和星期，或若干天前后的日期。", timeout_seconds=5)
def datetime(timezone: str = "", days: int = 0) -> str:
    """Tells the date, the time and the weekday, now or some days before or after.

    Args:
        timezone: such as Asia/Shanghai; this machine's own when empty.
        days: added to today, negative for the past.
    """
    try:
        zone = ZoneInfo(timezone) if timezone else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"timezone {timezone!r} is unknown; give one such as Asia/Shanghai or UTC") from None
    try:
        moment = Datetime.now().astimezone(zone) + timedelta(days=days)
    except OverflowError:
        raise ConfigError(f"days: {days} leads out of the calendar") from None
    return f"{moment.isoformat(' ', 'seconds')} {moment:%A} {WEEKDAYS[moment.weekday()]}"
