/**
 * A program of Vercel's AI SDK whose tool runs commands in a sandbox, by E2B's client.
 *
 *     npm install ai @ai-sdk/openai-compatible e2b zod
 *     node ai-sdk-agent.mjs
 *
 * Sandboxes: docs/e2b.md. Model: OPENAI_API_KEY, or OPENAI_BASE_URL and OPENAI_MODEL of another server.
 */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, stepCountIs, tool } from 'ai';
import { Sandbox } from 'e2b';
import { z } from 'zod';

const provider = createOpenAICompatible({
  name: 'openai',
  baseURL: process.env.OPENAI_BASE_URL ?? 'https://api.openai.com/v1',
  apiKey: process.env.OPENAI_API_KEY,
});
const sandbox = await Sandbox.create('agent');
try {
  const { text } = await generateText({
    model: provider(process.env.OPENAI_MODEL ?? 'gpt-5.4'),
    prompt: 'How many prime numbers are there below 10000? Write a program and run it.',
    stopWhen: stepCountIs(8),
    tools: {
      bash: tool({
        description: 'Run a shell command in the sandbox',
        inputSchema: z.object({ command: z.string() }),
        execute: async ({ command }) => {
          // The model sees a failed command as its exit code and output.
          const { exitCode, stdout, stderr } = await sandbox.commands.run(command).catch((error) => error);
          return { exitCode, stdout, stderr };
        },
      }),
    },
  });
  console.log(text);
} finally {
  await sandbox.kill();
}
