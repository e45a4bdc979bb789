"""From the files of a package to the one file that is kept: functions of bytes, which check nothing."""
