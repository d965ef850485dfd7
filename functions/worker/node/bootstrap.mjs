// Node's side of the Lambda Runtime API: loads the handler that _HANDLER names and gives it one event after another.
//
// For nodejs* functions on machines that cannot compile AWS's own client, `aws-lambda-ric`. Handlers may be CommonJS or
// ES modules, return promises or call back; the context object and the error objects are those of Lambda. Response
// streaming is refused when the handler is loaded. One file, nothing but Node 18 or later.
//
// Invariants:
// 1. Every event is answered once: what a handler says after its first answer is ignored.
// 2. An answer by callback waits for the event loop to be empty, unless callbackWaitsForEmptyEventLoop is false; an
//    answer by promise does not wait.
// 3. An exception that nobody caught ends the process, after it has been reported.

import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import util from 'node:util';

const { env } = process;
const [HOST, PORT] = env.AWS_LAMBDA_RUNTIME_API.split(':');
const RUNTIME = '/2018-06-01/runtime/';
const EXTENSIONS = ['', '.js', '.mjs', '.cjs'];
const UNHANDLED_REJECTION = 128; // exit codes of AWS's client
const UNCAUGHT_EXCEPTION = 129;
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

let requestId; // of the event in hand; undefined while the handler is loaded
let emptied = null; // what to do when the event loop is empty

class RuntimeError extends Error {
  constructor(kind, message) {
    super(message);
    this.name = `Runtime.${kind}`;
  }
}

// ---- HTTP

function call(method, name, body, headers) {
  return new Promise((resolve, reject) => {
    const options = { host: HOST, port: PORT, method, path: RUNTIME + name, agent, headers };
    const request = http.request(options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('end', () => {
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(parts) });
      });
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

function post(name, text, headers) {
  const body = Buffer.from(text);
  return call('POST', name, body, { 'Content-Type': 'application/json', 'Content-Length': body.length, ...headers });
}

function postError(error) {
  const report = describe(error);
  const name = requestId === undefined ? 'init/error' : `invocation/${requestId}/error`;
  const type = String(report.errorType).replace(/[^\x20-\x7e]/g, '?'); // what a header can hold
  return post(name, JSON.stringify(report), { 'Lambda-Runtime-Function-Error-Type': type });
}

// ---- What a handler sees and says

function describe(error) {
  try {
    if (util.types.isNativeError(error) || (error?.name && error.message && error.stack)) {
      const trace = typeof error.stack === 'string' ? error.stack.split('\n') : [];
      return { errorType: String(error.name), errorMessage: String(error.message), trace };
    }
    return { errorType: typeof error, errorMessage: String(error), trace: [] };
  } catch {
    return { errorType: 'handled', errorMessage: 'the error has no readable name, message or stack', trace: [] };
  }
}

function speakAsLambdaDoes() {
  const write = (level) => (...values) => {
    process.stdout.write(`${new Date().toISOString()}\t${requestId}\t${level}\t${util.format(...values)}\n`);
  };
  console.log = console.info = write('INFO');
  console.trace = write('TRACE');
  console.debug = write('DEBUG');
  console.warn = write('WARN');
  console.error = write('ERROR');
}

function contextOf(headers) {
  const parsed = (name) => (headers[name] ? JSON.parse(headers[name]) : undefined);
  const deadline = Number(headers['lambda-runtime-deadline-ms']);
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: env.AWS_LAMBDA_FUNCTION_NAME,
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    clientContext: parsed('lambda-runtime-client-context'),
    identity: parsed('lambda-runtime-cognito-identity'),
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
  };
}

// The handler's answer to one event: whichever way it speaks first decides.
function answerOf(handler, event, context) {
  return new Promise((resolve, reject) => {
    const isNothing = (error) => error === undefined || error === null;
    let isAnswered = false;
    const once = (act) => (...values) => {
      if (!isAnswered) {
        isAnswered = true;
        act(...values);
      }
    };
    const done = (error, result) => (isNothing(error) ? resolve(result) : reject(error));
    const callback = once((error, result) => {
      if (isNothing(error) && context.callbackWaitsForEmptyEventLoop) {
        emptied = () => resolve(result);
      } else {
        done(error, result);
      }
    });
    context.done = once(done);
    context.succeed = once((result) => resolve(result));
    context.fail = once((error) => reject(error ?? 'handled'));
    const isAsync = handler.constructor?.name === 'AsyncFunction';
    const never = new RuntimeError('NodeJsExit', 'the handler waits for what will never come');
    emptied = () => (isAsync ? reject(never) : resolve(null));
    try {
      const returned = handler(event, context, callback);
      if (typeof returned?.then === 'function') {
        returned.then(context.succeed, context.fail);
      }
    } catch (error) {
      context.fail(error);
    }
  });
}

function textOf(result) {
  try {
    return JSON.stringify(result) ?? 'null';
  } catch {
    throw new Error('Unable to stringify response body');
  }
}

async function handleNext(handler) {
  const { status, headers, body } = await call('GET', 'invocation/next');
  if (status !== 200) {
    throw new RuntimeError('Unknown', `the Runtime API answered ${status}: ${body}`);
  }
  requestId = headers['lambda-runtime-aws-request-id'];
  env._X_AMZN_TRACE_ID = headers['lambda-runtime-trace-id'] ?? '';
  let text;
  try {
    const isJson = (headers['content-type'] ?? 'application/json').startsWith('application/json');
    text = textOf(await answerOf(handler, isJson ? JSON.parse(body) : body, contextOf(headers)));
  } catch (error) {
    console.error('Invoke Error', error);
    await postError(error);
    return;
  } finally {
    emptied = null;
  }
  await post(`invocation/${requestId}/response`, text);
}

// ---- Finding the handler

async function moduleAt(file) {
  if (file.endsWith('.mjs')) {
    return import(pathToFileURL(file));
  }
  try {
    return createRequire(file)(file);
  } catch (error) {
    if (error?.code === 'ERR_REQUIRE_ESM' || error?.code === 'ERR_REQUIRE_ASYNC_MODULE') {
      return import(pathToFileURL(file)); // package.json says "type": "module"
    }
    throw error;
  }
}

async function load(root, name) {
  const [, directory, base, inside] = name.match(/^(.*\/)?([^/.]+)\.([^/]+)$/) ?? [];
  if (!inside || name.includes('..')) {
    throw new RuntimeError('MalformedHandlerName', `'${name}' is not a valid handler name: write file.function`);
  }
  const place = path.resolve(root, directory ?? '', base);
  const isFile = (name) => fs.statSync(name, { throwIfNoEntry: false })?.isFile();
  const files = EXTENSIONS.map((extension) => place + extension);
  const found = files.find(isFile) ?? (fs.existsSync(place) ? place : undefined); // a directory has its index.js
  let module;
  try {
    const { resolve } = createRequire(path.join(root, 'index.js'));
    module = await moduleAt(found ?? resolve((directory ?? '') + base, { paths: [root] }));
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new RuntimeError('UserCodeSyntaxError', String(error));
    }
    if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
      throw new RuntimeError('ImportModuleError', String(error));
    }
    throw error;
  }
  const handler = inside.split('.').reduce((object, key) => object?.[key], module);
  if (typeof handler !== 'function') {
    const what = handler === undefined ? 'undefined or not exported' : 'not a function';
    throw new RuntimeError('HandlerNotFound', `${name} is ${what}`);
  }
  return handler;
}

// ---- Life

async function end(error, code, what) {
  console.error(what, error);
  await postError(error).catch(() => {});
  process.exit(code);
}

process.on('uncaughtException', (error) => end(error, UNCAUGHT_EXCEPTION, 'Uncaught Exception'));
process.on('unhandledRejection', (reason) => {
  const error = new RuntimeError('UnhandledPromiseRejection', String(reason));
  end(error, UNHANDLED_REJECTION, 'Unhandled Promise Rejection');
});
process.on('beforeExit', () => {
  const act = emptied;
  emptied = null;
  if (act) {
    setImmediate(act);
  }
});
globalThis.awslambda = {
  streamifyResponse() {
    throw new RuntimeError('StreamingNotSupported', 'responses are not streamed here: return the whole result');
  },
};

async function main() {
  speakAsLambdaDoes();
  const never = new RuntimeError('NodeJsExit', 'loading the handler waits for what will never come');
  emptied = () => end(never, 1, 'Init Error');
  const handler = await load(env.LAMBDA_TASK_ROOT, env._HANDLER);
  emptied = null;
  for (;;) {
    await handleNext(handler);
  }
}

main().catch((error) => end(error, 1, requestId === undefined ? 'Init Error' : 'Runtime Error'));
