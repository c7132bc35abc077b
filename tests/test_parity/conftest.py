"""Prints the measured errors of all parity tests as a table at the end."""


def pytest_terminal_summary(terminalreporter):
    found = {}
    for report in terminalreporter.getreports('passed'):
        for name, value in report.user_properties:
            if name == 'largest error of the largest value':
                found[report.nodeid.rpartition('[')[2].rstrip(']')] = value
    if found:
        terminalreporter.section('largest error of the largest value')
        for case, value in sorted(found.items()):
            terminalreporter.write_line(f'{case}: {value:.1e}')
