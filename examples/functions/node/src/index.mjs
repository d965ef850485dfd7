// Round a reading's temperature to half a degree.
export const handler = async (event, context) => {
  console.log(`${context.functionName} has ${context.getRemainingTimeInMillis()} ms`);
  return { ...event, temperature: Math.round(event.temperature * 2) / 2 };
};
