-- The requests of wrk's connections: `wrk -t 1 ... URL -- orders|account TOKENS_FILE PREFIX`.
-- Every order has its own key. The tokens are used in turn. The last line of output is JSON.

local worker -- wrk's single thread, which has the counts

function setup(thread)
  worker = thread
end

function init(args)
  workload, prefix = args[1], args[3]
  tokens, responses, count = {}, {}, 0
  for token in io.lines(args[2]) do
    tokens[#tokens + 1] = token
  end
end

function request()
  count = count + 1
  local headers = { Authorization = "Bearer " .. tokens[count % #tokens + 1] }
  if workload == "account" then
    return wrk.format("GET", "/account", headers)
  end
  headers["Content-Type"] = "application/json"
  headers["Idempotency-Key"] = prefix .. count
  return wrk.format("POST", "/orders", headers, '{"price": "5.00"}')
end

function response(status)
  responses[tostring(status)] = (responses[tostring(status)] or 0) + 1
end

local function as_json(numbers, pattern)
  local parts = {}
  for name, value in pairs(numbers) do
    parts[#parts + 1] = string.format('"%s": ' .. pattern, name, value)
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

function done(summary, latency)
  local errors, all = summary.errors, worker:get("responses")
  all.broken = errors.connect + errors.read + errors.write + errors.timeout
  local times = { seconds = summary.duration / 1e6 } -- wrk counts microseconds
  for _, percent in ipairs({ 50, 90, 99 }) do
    times["p" .. percent .. "_ms"] = latency:percentile(percent) / 1000
  end
  print('{"times": ' .. as_json(times, "%.3f") .. ', "responses": ' .. as_json(all, "%d") .. "}")
end
