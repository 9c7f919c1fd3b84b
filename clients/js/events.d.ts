/// <reference lib="esnext.disposable" />
/** What goes over the wire. Generated from the server's models by docs/generate.py. */

/** Of the tools only these may be used. */
export interface AllowedTools {
  type: "allowed_tools";
  mode: "auto" | "required";
  tools: (FunctionChoice | FileSearchChoice)[];
}

/** A mark of the text names a file. */
export interface AnnotationAdded {
  type: "response.output_text.annotation.added";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  content_index: number;
  annotation_index: number;
  annotation: FileCitation;
}

/** More of the arguments of a function call. */
export interface CallArgumentsDelta {
  type: "response.function_call_arguments.delta";
  stream_id?: string | null;
  item_id: string;
  output_index: number;
  sequence_number: number;
  delta: string;
}

/** The arguments of a function call are whole. */
export interface CallArgumentsDone {
  type: "response.function_call_arguments.done";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  arguments: string;
}

/** Answers a cancel that found nothing to stop. */
export interface CancelDone {
  type: "ragsocket:cancel.done";
  event_id?: string | null;
  response_ids: string[];
}

/** Which files may be found: those one of whose attributes compares like this. */
export interface ComparisonFilter {
  type: "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin";
  key: string;
  value: string | boolean | number | (string | boolean | number)[];
}

/** Which files may be found: those that pass all (`and`) or any (`or`) of these. */
export interface CompoundFilter {
  type: "and" | "or";
  filters: (Record<string, unknown>)[];
}

/** A part of a message, or of reasoning, begins. */
export interface ContentPartAdded {
  type: "response.content_part.added";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  content_index: number;
  part: OutputText | ReasoningText;
}

/** A part of a message, or of reasoning, is final. */
export interface ContentPartDone {
  type: "response.content_part.done";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  content_index: number;
  part: OutputText | ReasoningText;
}

/** The conversation that a response belongs to. */
export interface ConversationRef {
  id: string;
}

/** A fault of one client event; the socket lives on. */
export interface Error {
  type: "error";
  status: number;
  code: string;
  message: string;
  param: string | null;
  sequence_number: number;
  stream_id?: string | null;
  error: ErrorDetail;
}

/** The nested form of an error; `event_id` is that of the event at fault. */
export interface ErrorDetail {
  type: "invalid_request_error" | "server_error" | "rate_limit_error";
  code: string;
  message: string;
  param: string | null;
  event_id: string | null;
}

/** What this server adds to a Response. */
export interface Facts {
  reason: "completed" | "cancelled" | "steered" | "client_lost" | "shutdown" | "worker_lost" | "max_output_tokens" | "content_filter" | "failed" | null;
  code: string | null;
  reference: string | null;
  resumable: boolean;
  index_revision: number | null;
  retrieval_ms: number | null;
  ttft_ms: number | null;
  total_ms: number | null;
  usage_estimated: boolean | null;
  snapshot?: boolean | null;
  feedback?: Feedback | null;
}

/** What somebody thought of an answer; with neither rating nor text it is taken back. */
export interface Feedback {
  /** Thumbs up or down; null for neither. */
  rating: "up" | "down" | null;
  /** In words, at most 4,000 characters. */
  text: string | null;
}

/** A mark in the text that names a retrieved file. */
export interface FileCitation {
  type: "file_citation";
  file_id: string;
  filename: string;
  index: number;
}

/** One search of the documents; `results` are there when the creator asked for them. */
export interface FileSearchCall {
  type: "file_search_call";
  id: string;
  status: "in_progress" | "searching" | "completed" | "incomplete" | "failed";
  queries: string[];
  results: SearchResult[] | null;
}

/** The documents are searched, whatever the question looks like. */
export interface FileSearchChoice {
  type: "file_search";
}

/** The search is done. */
export interface FileSearchCompleted {
  type: "response.file_search_call.completed";
  stream_id?: string | null;
  sequence_number: number;
  output_index: number;
  item_id: string;
}

/** A search was begun. */
export interface FileSearchInProgress {
  type: "response.file_search_call.in_progress";
  stream_id?: string | null;
  sequence_number: number;
  output_index: number;
  item_id: string;
}

/** The documents are being searched. */
export interface FileSearchSearching {
  type: "response.file_search_call.searching";
  stream_id?: string | null;
  sequence_number: number;
  output_index: number;
  item_id: string;
}

/** The tool that searches the documents. */
export interface FileSearchTool {
  type: "file_search";
  vector_store_ids: string[];
  max_num_results: number | null;
  filters: ComparisonFilter | CompoundFilter | null;
}

/** The model asks its client to run a function; the client hands the output in. */
export interface FunctionCall {
  type: "function_call";
  id: string | null;
  call_id: string;
  name: string;
  arguments: string;
  status: "in_progress" | "completed" | "incomplete";
}

/** The answer is a call of this function. */
export interface FunctionChoice {
  type: "function";
  name: string;
}

/** A function that the client runs when the model calls it; `parameters` is a JSON schema. */
export interface FunctionTool {
  type: "function";
  name: string;
  description: string | null;
  parameters: Record<string, unknown> | null;
  strict: boolean | null;
}

/** Greets on `/ws`; `conversation` is the default lane's. */
export interface Hello {
  type: "ragsocket:hello";
  conversation: string;
  limits: Limits;
}

/** Why a response is incomplete, in the standard's few reasons. */
export interface IncompleteDetails {
  reason: "max_output_tokens" | "content_filter" | "steered" | null;
}

/** A picture, for models that take them: an address, or the picture itself as a data URL. */
export interface InputImage {
  type: "input_image";
  image_url: string;
  detail: "auto" | "low" | "high" | "original";
}

/** A message handed in; an answer's own item may be handed back as it came. */
export interface InputMessage {
  type: "message";
  id: string | null;
  status: "in_progress" | "completed" | "incomplete";
  role: "user" | "assistant" | "system" | "developer";
  content: string | (InputText | InputImage | OutputText)[];
}

/** A text part of an input message. */
export interface InputText {
  type: "input_text";
  text: string;
}

/** What of the input came from the model's cache, as far as its server says. */
export interface InputTokensDetails {
  cache_write_tokens: number;
  cached_tokens: number;
}

/** One JSON object, whatever is in it. */
export interface JsonObjectFormat {
  type: "json_object";
}

/** JSON that fits a schema. */
export interface JsonSchemaFormat {
  type: "json_schema";
  name: string;
  schema: Record<string, unknown>;
  description: string | null;
  strict: boolean | null;
}

/** What a connection may do. */
export interface Limits {
  max_frame_bytes: number;
  max_lanes: number;
  max_unfinished_responses: number;
  detach_grace_s: number;
}

/** An item begins. */
export interface OutputItemAdded {
  type: "response.output_item.added";
  stream_id?: string | null;
  sequence_number: number;
  output_index: number;
  item: OutputMessage | FileSearchCall | FunctionCall | Reasoning;
}

/** An item is final. */
export interface OutputItemDone {
  type: "response.output_item.done";
  stream_id?: string | null;
  sequence_number: number;
  output_index: number;
  item: OutputMessage | FileSearchCall | FunctionCall | Reasoning;
}

/** The answer as an item. `incomplete`: it ends at its cut. */
export interface OutputMessage {
  type: "message";
  id: string;
  status: "in_progress" | "completed" | "incomplete";
  role: "assistant";
  content: OutputText[];
}

/** A text part of an answer. */
export interface OutputText {
  type: "output_text";
  text: string;
  annotations: FileCitation[];
  logprobs: never[];
}

/** More text. */
export interface OutputTextDelta {
  type: "response.output_text.delta";
  stream_id?: string | null;
  item_id: string;
  output_index: number;
  content_index: number;
  logprobs: never[];
  sequence_number: number;
  delta: string;
}

/** The text is final; it is authoritative over the gathered deltas. */
export interface OutputTextDone {
  type: "response.output_text.done";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  content_index: number;
  logprobs: never[];
  text: string;
}

/** What of the output was reasoning. */
export interface OutputTokensDetails {
  reasoning_tokens: number;
}

/** Text, as the model writes it. */
export interface PlainFormat {
  type: "text";
}

/** Answers a ping. */
export interface Pong {
  type: "ragsocket:pong";
  event_id?: string | null;
}

/** What the model thought before it answered; no prompt repeats it. */
export interface Reasoning {
  type: "reasoning";
  id: string | null;
  summary: SummaryText[];
  content: ReasoningText[];
  status: "in_progress" | "completed" | "incomplete";
}

/** How much the model thinks; `effort` is passed on, `summary` has no effect. */
export interface ReasoningConfig {
  effort: "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max" | null;
  summary: "auto" | "concise" | "detailed" | null;
}

/** What the model thought, as it came. */
export interface ReasoningText {
  type: "reasoning_text";
  text: string;
}

/** More of what the model thinks before it answers; never part of the text. */
export interface ReasoningTextDelta {
  type: "response.reasoning_text.delta";
  stream_id?: string | null;
  item_id: string;
  output_index: number;
  content_index: number;
  sequence_number: number;
  delta: string;
}

/** What the model thought is final. */
export interface ReasoningTextDone {
  type: "response.reasoning_text.done";
  stream_id?: string | null;
  sequence_number: number;
  item_id: string;
  output_index: number;
  content_index: number;
  text: string;
}

/** A steering that came to nothing, with its input; `id` if it had been accepted. */
export interface RefusedSteer {
  id?: string | null;
  previous_response_id: string;
  input: string | InputMessage[];
}

/** One answer and everything done for it. */
export interface Response {
  id: string;
  object: "response";
  created_at: number;
  completed_at: number | null;
  status: "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";
  background: boolean;
  error: ResponseError | null;
  incomplete_details: IncompleteDetails | null;
  instructions: string | null;
  max_output_tokens: number | null;
  max_tool_calls: number | null;
  model: string;
  output: (OutputMessage | FileSearchCall | FunctionCall | Reasoning)[];
  parallel_tool_calls: boolean;
  previous_response_id: string | null;
  conversation: ConversationRef | null;
  prompt_cache_key: string | null;
  reasoning: ReasoningConfig | null;
  safety_identifier: string | null;
  service_tier: string;
  store: boolean;
  temperature: number;
  text: TextConfig;
  tool_choice: "auto" | "none" | "required" | FunctionChoice | FileSearchChoice | AllowedTools;
  tools: (FileSearchTool | FunctionTool)[];
  top_logprobs: number;
  top_p: number;
  presence_penalty: number;
  frequency_penalty: number;
  truncation: "auto" | "disabled";
  usage: Usage | null;
  user: string | null;
  metadata: Record<string, string>;
  ragsocket: Facts;
}

/** Terminal: the answer is whole. */
export interface ResponseCompleted {
  type: "response.completed";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
}

/** The response exists; `event_id` is the one of the ask. */
export interface ResponseCreated {
  type: "response.created";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
  event_id?: string | null;
}

/** Why a response failed, in the standard's few codes; ours is `response.ragsocket.code`. */
export interface ResponseError {
  code: "server_error" | "rate_limit_exceeded" | "invalid_prompt";
  message: string;
}

/** Terminal: the answer could not be produced; the text so far is kept. */
export interface ResponseFailed {
  type: "response.failed";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
}

/** The response is being worked on. */
export interface ResponseInProgress {
  type: "response.in_progress";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
}

/** Terminal: the answer ends at its cut, or the model stopped early. */
export interface ResponseIncomplete {
  type: "response.incomplete";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
}

/** The response waits for its lane or its conversation. */
export interface ResponseQueued {
  type: "response.queued";
  stream_id?: string | null;
  sequence_number: number;
  response: Response;
}

/** A retrieved passage. `[n]` in the answer means the n-th result. */
export interface SearchResult {
  file_id: string;
  filename: string;
  score: number;
  text: string;
  attributes: Record<string, string | number | boolean>;
}

/** A steering that was accepted. */
export interface Steer {
  id: string;
  previous_response_id: string;
}

/** The response ends here, and the input is answered in its place. */
export interface SteerAccepted {
  type: "response.steer.accepted";
  stream_id?: string | null;
  sequence_number: number;
  steer: Steer;
}

/** Why a steering came to nothing. */
export interface SteerError {
  type: "invalid_request_error";
  code: string;
  message: string;
}

/** The input of a steering is handed back, for nothing answers it. */
export interface SteerFailed {
  type: "response.steer.failed";
  event_id?: string | null;
  stream_id?: string | null;
  sequence_number: number;
  error: SteerError;
  steer: RefusedSteer;
}

/** A summary of what the model thought; this server makes none. */
export interface SummaryText {
  type: "summary_text";
  text: string;
}

/** Settings of the answer's text; `verbosity` is passed on to the model. */
export interface TextConfig {
  format: PlainFormat | JsonObjectFormat | JsonSchemaFormat;
  verbosity?: "low" | "medium" | "high" | null;
}

/** Token counts. `response.ragsocket.usage_estimated` says whose count it is. */
export interface Usage {
  input_tokens: number;
  input_tokens_details: InputTokensDetails;
  output_tokens: number;
  output_tokens_details: OutputTokensDetails;
  total_tokens: number;
}

/** The tool that searches the documents. */
export interface FileSearchToolInput {
  type: "file_search";
  vector_store_ids?: string[];
  max_num_results?: number | null;
  filters?: ComparisonFilterInput | CompoundFilterInput | null;
}

/** Which files may be found: those one of whose attributes compares like this. */
export interface ComparisonFilterInput {
  type: "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "in" | "nin";
  key: string;
  value: string | boolean | number | (string | boolean | number)[];
}

/** Which files may be found: those that pass all (`and`) or any (`or`) of these. */
export interface CompoundFilterInput {
  type: "and" | "or";
  filters: (Record<string, unknown>)[];
}

/** A function that the client runs when the model calls it; `parameters` is a JSON schema. */
export interface FunctionToolInput {
  type: "function";
  name: string;
  description?: string | null;
  parameters?: Record<string, unknown> | null;
  strict?: boolean | null;
}

/** The answer is a call of this function. */
export interface FunctionChoiceInput {
  type: "function";
  name: string;
}

/** The documents are searched, whatever the question looks like. */
export interface FileSearchChoiceInput {
  type: "file_search";
}

/** Of the tools only these may be used. */
export interface AllowedToolsInput {
  type: "allowed_tools";
  mode: "auto" | "required";
  tools: (FunctionChoiceInput | FileSearchChoiceInput)[];
}

/** How to search for one question (an extra of this server). */
export interface RetrievalOptionsInput {
  /** Passages to use. */
  similarity_top_k?: number | null;
  /** Which indexes to ask; `none` answers from the conversation alone. */
  mode?: "hybrid" | "dense" | "sparse" | "none";
  /** How the answer is made of the passages. */
  response_mode?: "compact" | "refine" | "tree_summarize" | "no_text";
  /** Which files may be found, beside what the tool's `filters` say; see Filters. */
  filters?: ComparisonFilterInput | CompoundFilterInput | null;
}

/** What chat completions can tell a model and the Responses API cannot (an extra). */
export interface SamplingOptionsInput {
  /** Texts at which the model stops, without saying them; four at most. */
  stop?: string[];
  /** The same seed makes the same answer likely. */
  seed?: number | null;
}

/** Settings of the answer's text; `verbosity` is passed on to the model. */
export interface TextConfigInput {
  format?: PlainFormatInput | JsonObjectFormatInput | JsonSchemaFormatInput;
  verbosity?: "low" | "medium" | "high" | null;
}

/** Text, as the model writes it. */
export interface PlainFormatInput {
  type: "text";
}

/** One JSON object, whatever is in it. */
export interface JsonObjectFormatInput {
  type: "json_object";
}

/** JSON that fits a schema. */
export interface JsonSchemaFormatInput {
  type: "json_schema";
  name: string;
  schema: Record<string, unknown>;
  description?: string | null;
  strict?: boolean | null;
}

/** How much the model thinks; `effort` is passed on, `summary` has no effect. */
export interface ReasoningConfigInput {
  effort?: "none" | "minimal" | "low" | "medium" | "high" | "xhigh" | "max" | null;
  summary?: "auto" | "concise" | "detailed" | null;
}

/** What an ask may say beside its input. */
export interface AskFields {
  /** `false`: prepare, without an answer; the next one goes on from here. `input` may be anything then, or missing. */
  generate?: boolean | null;
  /** Model to use; none is the default. */
  model?: string | null;
  /** Extra instructions for this answer. */
  instructions?: string | null;
  /** The response to go on from. */
  previous_response_id?: string | null;
  /** `false`: nothing of it is written to disk. It can be gone on from on its own connection, by answers that are not stored either; it belongs to no conversation. */
  store?: boolean | null;
  /** `true`: the answer goes on without a follower for as long as it takes. Over HTTP without `stream` it is returned as soon as it exists. */
  background?: boolean | null;
  /** `function`: the model may call it. `file_search`, or no `tools` at all: search. An empty list, or functions alone: do not. */
  tools?: (FileSearchToolInput | FunctionToolInput)[] | null;
  /** `none`: no function, no search. `required`: a search, whatever the question looks like, or else a function. One tool, or `allowed_tools`: those alone. */
  tool_choice?: "auto" | "none" | "required" | FunctionChoiceInput | FileSearchChoiceInput | AllowedToolsInput;
  /** `false`: at most one function call in an answer. */
  parallel_tool_calls?: boolean | null;
  /** Kept, since an answer makes at most one search; functions do not count. */
  max_tool_calls?: number | null;
  /** How to search (an extra of this server). */
  retrieval?: RetrievalOptionsInput;
  /** More that is passed on to the model (an extra). */
  sampling?: SamplingOptionsInput;
  /** Passed on to the model. */
  temperature?: number | null;
  /** Passed on to the model. */
  top_p?: number | null;
  /** Upper bound of generated tokens, reasoning included. */
  max_output_tokens?: number | null;
  /** Passed on; above zero, words that were said are said less. */
  presence_penalty?: number | null;
  /** Passed on; above zero, words that were said often are said less. */
  frequency_penalty?: number | null;
  /** `format`: `text`, `json_object` or `json_schema`; it and `verbosity` are passed on to the model. */
  text?: TextConfigInput;
  /** `effort` is passed on to the model; `summary` has no effect. */
  reasoning?: ReasoningConfigInput | null;
  /** Up to 16 pairs, kept with the response. */
  metadata?: Record<string, string> | null;
  /** `auto`: the oldest turns that do not fit the prompt are left out. `disabled`: the response fails instead. */
  truncation?: "auto" | "disabled";
  /** No effect. */
  stream_options?: unknown;
  /** Echoed. */
  user?: string | null;
  /** Echoed. */
  service_tier?: "auto" | "default" | "flex" | "scale" | "priority" | "fast" | "ultrafast" | null;
  /** Echoed. */
  safety_identifier?: string | null;
  /** Echoed. */
  prompt_cache_key?: string | null;
  /** No effect. */
  prompt_cache_options?: unknown;
  /** No effect. */
  prompt_cache_retention?: unknown;
}

/** An event of the server; there may be others, which you can pass by. */
export type ServerEvent =
  | ResponseCreated
  | ResponseQueued
  | ResponseInProgress
  | OutputItemAdded
  | FileSearchInProgress
  | FileSearchSearching
  | FileSearchCompleted
  | ContentPartAdded
  | OutputTextDelta
  | AnnotationAdded
  | OutputTextDone
  | ReasoningTextDelta
  | ReasoningTextDone
  | CallArgumentsDelta
  | CallArgumentsDone
  | ContentPartDone
  | OutputItemDone
  | ResponseCompleted
  | ResponseIncomplete
  | ResponseFailed
  | SteerAccepted
  | SteerFailed
  | Error
  | Hello
  | CancelDone
  | Pong;
