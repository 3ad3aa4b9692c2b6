// biome-ignore-all lint/suspicious/noTemplateCurlyInString: variables of Dockerfiles
/** A Dockerfile and its ignore rules: a typed error, or steps and a configuration within the limits. */
import { DockerfileError } from '../../src/artifacts/dockerfile/errors.ts';
import { EMPTY_CONFIG, evaluateStage, NOTHING_INHERITED } from '../../src/artifacts/dockerfile/evaluate.ts';
import { DOCKERFILE_LIMITS } from '../../src/artifacts/dockerfile/limits.ts';
import { parseDockerfile } from '../../src/artifacts/dockerfile/parse.ts';
import { platformArguments, readStages } from '../../src/artifacts/dockerfile/stages.ts';
import { DockerIgnore } from '../../src/artifacts/transfer/docker-ignore.ts';
import { must, target } from './target.ts';

const platform = platformArguments('amd64');
const IGNORE_BYTES_MAX = 4_096;

export const dockerfile = target(
  'dockerfile',
  (bytes) => {
    tryIgnore(Buffer.from(bytes.subarray(0, IGNORE_BYTES_MAX)).toString());
    try {
      const parsed = parseDockerfile(bytes);
      const graph = readStages(parsed, {}, platform);
      for (const stage of graph.stages) {
        must(stage.base.kind !== 'stage' || stage.base.index < stage.index, 'a stage below itself');
        const base = EMPTY_CONFIG;
        const inherited = NOTHING_INHERITED;
        const { steps, config } = evaluateStage({ graph, stage, base, inherited, given: {}, platform });
        must(steps.length <= DOCKERFILE_LIMITS.instructionsMax, 'the number of steps');
        must(config.workdir.startsWith('/'), 'a relative directory');
        for (const step of steps) {
          must(step.line >= 1, 'a line');
          if (step.kind === 'run') must(step.workdir.startsWith('/'), 'a relative directory');
          if (step.kind === 'copy') must(step.target.startsWith('/'), 'a relative destination');
          if (step.kind === 'copy') must(!/(^|\/)\.\.(\/|$)/.test(step.target), 'a way up');
        }
      }
    } catch (error) {
      if (!(error instanceof DockerfileError)) throw error;
    }
  },
  {
    seeds: [
      'ARG V=1\nFROM a:$V AS b\nRUN --mount=type=cache,target=/x y \\\n # c\n z\nCOPY <<E /d/\nt $V\nE\n',
      'FROM scratch\nCOPY --from=0 --chown=1:2 ["a b", "/x/"]\nENV A=1 B="c d" C=${A:-x}\n',
      '# escape=`\nFROM agent\nENTRYPOINT ["a"]\nCMD b\nEXPOSE 80/tcp\nHEALTHCHECK --interval=1s CMD x\n',
      '**/a\n!b/[c-d]?*\n',
    ],
  },
);

function tryIgnore(text: string): void {
  let rules: DockerIgnore;
  try {
    rules = DockerIgnore.parse(text);
  } catch (error) {
    must(error instanceof Error && /^(line|it) /.test(error.message), 'an error without a place');
    return;
  }
  const above = rules.judge('a', null);
  must(rules.judge('a', null).ignored === above.ignored, 'two answers');
  if (above.ignored && !rules.hasExceptions) must(rules.judge('a/b', above).ignored, 'a way out');
}
