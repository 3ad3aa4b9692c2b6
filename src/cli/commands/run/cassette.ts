/** `run --record` and `--replay`: what is said at the end, and the status. */
import { plain } from '../../../base/text/plain.ts';
import type { CassetteReport } from '../../../host/runtime/model-servers/tape.ts';
import type { Cli } from '../../cli.ts';
import { EXIT_NEUROVISOR_FAILED, EXIT_NOT_IN_CASSETTE } from '../../exit-status.ts';

const SHOWN_MAX = 10;

/**
 * Reports for people, unless `-o json` is given.
 * @param status that of the run
 * @returns the exit status: requests that are not in the cassette make any other result of the script meaningless
 */
export function endCassette(cli: Pick<Cli, 'json' | 'stderr'>, report: CassetteReport, status: number): number {
  const lines = report.mode === 'record' ? recordedLines(report) : missingLines(report);
  if (!cli.json) for (const line of lines) cli.stderr.write(`${plain(line)}\n`);
  const isMissing = report.mode === 'replay' && report.unanswered > 0;
  return isMissing && status !== EXIT_NEUROVISOR_FAILED ? EXIT_NOT_IN_CASSETTE : status;
}

function recordedLines({ path, answered, unanswered }: CassetteReport): readonly string[] {
  const lost =
    unanswered === 0
      ? []
      : [
          `neurovisor: ${requests(unanswered)} got no answer from the model server, and ${unanswered === 1 ? 'is' : 'are'} not recorded`,
        ];
  if (answered > 0) return [...lost, `neurovisor: recorded ${requests(answered)} in ${path}`];
  return [...lost, `neurovisor: no request to a model was recorded; ${path} stays as it is`];
}

function missingLines({ path, unanswered, missing }: CassetteReport): readonly string[] {
  if (unanswered === 0) return [];
  const shown = missing.slice(0, SHOWN_MAX).map(({ dialect, operation, model, difference }) => {
    const named = model === null ? '' : ` to ${model}`;
    return `  ${dialect} ${operation}${named}: ${difference}`;
  });
  const more = unanswered - shown.length;
  return [
    `neurovisor: ${requests(unanswered)} had no answer in the cassette ${path}:`,
    ...shown,
    ...(more === 0 ? [] : [`  and ${more} more`]),
    `fix: record it again: neurovisor run --record FILE`,
  ];
}

const requests = (count: number): string => `${count} ${count === 1 ? 'request' : 'requests'}`;
