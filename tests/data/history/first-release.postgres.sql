CREATE TABLE conversations (
    id character varying(64) NOT NULL,
    owner character varying(128) NOT NULL,
    created_at integer NOT NULL,
    head_id character varying(64),
    updated_at bigint NOT NULL,
    metadata text NOT NULL,
    opening text,
    title text
);
CREATE TABLE responses (
    id character varying(64) NOT NULL,
    owner character varying(128) NOT NULL,
    conversation_id character varying(64),
    parent_id character varying(64),
    lease character varying(64) NOT NULL,
    finished boolean NOT NULL,
    created_at integer NOT NULL,
    last_number integer,
    input text NOT NULL,
    response text NOT NULL,
    event_id character varying(128),
    fingerprint character varying(64),
    said text NOT NULL,
    feedback text,
    forgotten boolean NOT NULL
);
INSERT INTO conversations VALUES ('conv_1', 'local', 1790000000, 'resp_3', 1790000000000, '{}', 'When does the ferry leave? Größe ''quoted''', 'when does the ferry leave? grösse ''quoted''');
INSERT INTO responses VALUES ('resp_1', 'local', 'conv_1', NULL, 'first', true, 1790000000, 9, '[{"type":"message","id":null,"status":"completed","role":"user","content":"When does the ferry leave? Größe ''quoted''"}]', '{"id":"resp_1","object":"response","created_at":1790000000,"completed_at":1790000001,"status":"completed","background":false,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":"m","output":[{"type":"message","id":"msg_resp_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"At 7:40, 😀.","annotations":[],"logprobs":[]}]}],"parallel_tool_calls":true,"previous_response_id":null,"conversation":{"id":"conv_1"},"prompt_cache_key":null,"reasoning":null,"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"presence_penalty":0.0,"frequency_penalty":0.0,"truncation":"auto","usage":null,"user":null,"metadata":{},"ragsocket":{"reason":null,"code":null,"reference":null,"resumable":true,"index_revision":null,"retrieval_ms":null,"ttft_ms":null,"total_ms":null,"usage_estimated":null}}', 'key-resp_1', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'when does the ferry leave? grösse ''quoted''
at 7:40, 😀.', NULL, false);
INSERT INTO responses VALUES ('resp_3', 'local', 'conv_1', 'resp_2', 'first', true, 1790000000, 9, '[{"type":"message","id":null,"status":"completed","role":"user","content":"Forgotten"}]', '{"id":"resp_3","object":"response","created_at":1790000000,"completed_at":1790000001,"status":"completed","background":false,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":"m","output":[{"type":"message","id":"msg_resp_3","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Gone.","annotations":[],"logprobs":[]}]}],"parallel_tool_calls":true,"previous_response_id":"resp_2","conversation":{"id":"conv_1"},"prompt_cache_key":null,"reasoning":null,"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"presence_penalty":0.0,"frequency_penalty":0.0,"truncation":"auto","usage":null,"user":null,"metadata":{},"ragsocket":{"reason":null,"code":null,"reference":null,"resumable":true,"index_revision":null,"retrieval_ms":null,"ttft_ms":null,"total_ms":null,"usage_estimated":null}}', 'key-resp_3', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'forgotten
gone.', NULL, false);
INSERT INTO responses VALUES ('resp_2', 'local', 'conv_1', 'resp_1', 'first', true, 1790000000, 9, '[{"type":"message","id":null,"status":"completed","role":"user","content":"And dogs?"}]', '{"id":"resp_2","object":"response","created_at":1790000000,"completed_at":1790000001,"status":"completed","background":false,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":"m","output":[{"type":"message","id":"msg_resp_2","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Free.","annotations":[],"logprobs":[]}]}],"parallel_tool_calls":true,"previous_response_id":"resp_1","conversation":{"id":"conv_1"},"prompt_cache_key":null,"reasoning":null,"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"presence_penalty":0.0,"frequency_penalty":0.0,"truncation":"auto","usage":null,"user":null,"metadata":{},"ragsocket":{"reason":null,"code":null,"reference":null,"resumable":true,"index_revision":null,"retrieval_ms":null,"ttft_ms":null,"total_ms":null,"usage_estimated":null}}', 'key-resp_2', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'and dogs?
free.', '{"rating":"up","text":null}', false);
INSERT INTO responses VALUES ('resp_4', 'local', 'conv_1', 'resp_3', 'first', false, 1790000000, NULL, '[{"type":"message","id":null,"status":"completed","role":"user","content":"Never ended"}]', '{"id":"resp_4","object":"response","created_at":1790000000,"completed_at":null,"status":"queued","background":false,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":"m","output":[],"parallel_tool_calls":true,"previous_response_id":"resp_3","conversation":{"id":"conv_1"},"prompt_cache_key":null,"reasoning":null,"safety_identifier":null,"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"presence_penalty":0.0,"frequency_penalty":0.0,"truncation":"auto","usage":null,"user":null,"metadata":{},"ragsocket":{"reason":null,"code":null,"reference":null,"resumable":true,"index_revision":null,"retrieval_ms":null,"ttft_ms":null,"total_ms":null,"usage_estimated":null}}', NULL, NULL, 'never ended', NULL, false);
ALTER TABLE ONLY conversations
    ADD CONSTRAINT conversations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY responses
    ADD CONSTRAINT responses_pkey PRIMARY KEY (id);
CREATE INDEX conversations_by_owner ON conversations USING btree (owner, updated_at);
CREATE INDEX responses_by_conversation ON responses USING btree (owner, conversation_id, created_at);
CREATE INDEX responses_unfinished ON responses USING btree (finished);
